/* What flac.c, residual.c and flac_crc.c share. */
#ifndef SED_DISTILL_FLAC_H
#define SED_DISTILL_FLAC_H

#include "bits.h"

#define MAX_ORDER 32

typedef struct {
    unsigned order;
    unsigned shift;
    int is_narrow;                   /* no prediction from samples within their range needs more than 32 bits */
    int64_t coefficients[MAX_ORDER]; /* of the sample before, of the one before that, ... */
} Predictor;

uint8_t flac_crc8(const unsigned char *bytes, size_t size);
unsigned flac_crc16(const unsigned char *bytes, size_t size);

/* `block` samples at `s`, of which the first `predictor->order` are there. Returns 0 where the stream is not FLAC. */
int decode_residual(Reader *r, int32_t *s, size_t block, const Predictor *predictor);
/* Zeros before the next one, which is taken too. -1 where the stream ends in them. */
int64_t take_unary(Reader *r);

#endif
