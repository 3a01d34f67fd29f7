/* The kernels of shards._native: plain C99 on memory that module.c has checked. None of them needs the GIL. */
#ifndef SED_DISTILL_KERNELS_H
#define SED_DISTILL_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__) || defined(__clang__)
#define LIKELY(x) __builtin_expect(!!(x), 1)
#define UNLIKELY(x) __builtin_expect(!!(x), 0)
#define ALWAYS_INLINE static inline __attribute__((always_inline))
#else
#define LIKELY(x) (x)
#define UNLIKELY(x) (x)
#define ALWAYS_INLINE static inline
#endif

/* x86-64 with a compiler that makes functions for newer processors than it is told to build for. */
#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define X86_DISPATCH 1
#endif

/* Where the samples of a clip go: int16, or float32 as value / 32768. */
typedef struct {
    unsigned char *memory;
    ptrdiff_t channel_bytes; /* from a channel to the next */
    int is_float;
} PcmOut;

/* Where the rows of a label go, and the values that stand for its codes: of `value_bytes` each, 4 or 2. `places`: for
   each row of the label the row of `memory` that it becomes, or -1; NULL: its own. are_probabilities: of float16, those
   within [0, 1] alone are values, else all that are finite. */
typedef struct {
    unsigned char *memory;
    const unsigned char *table;
    size_t table_values;
    size_t value_bytes;
    const int32_t *places;
    int are_probabilities;
} LabelOut;

/* Each `prepare` and `choose` once, before anything else. portable: without what only some processors have. */
void prepare_crc32c(void);
void choose_crc32c(int portable);
uint32_t crc32c(const unsigned char *bytes, size_t size);

void prepare_flac_crc(void);
void choose_flac(int portable);
/* 1: decoded; 0: not a FLAC stream of exactly that clip in 16 bits, or of a kind that is not known here. */
int decode_flac(const unsigned char *bytes, size_t size, uint32_t sample_rate, unsigned channels, size_t samples,
                const PcmOut *out);

/* `differences`: the channels one after another. */
void running_sum(const uint16_t *differences, unsigned channels, size_t samples, const PcmOut *out);
void store_pcm(const int32_t *pcm, size_t samples, const PcmOut *out, unsigned channel, size_t at);

/* 0: written; 1: the side stream is not what the tokens ask for; 2: runs leave their rows or the table. */
int decode_runs(const unsigned char *tokens, size_t runs, const unsigned char *side, size_t stated, size_t jumps,
                size_t rows, size_t frames, const LabelOut *out);
/* Whether all that were wanted are values. `bits`: little-endian; the table has 65,536 values. */
int look_up_float16(const unsigned char *bits, size_t rows, size_t columns, const LabelOut *out);
int decode_packed(const unsigned char *high, const unsigned char *low, size_t rows, size_t columns,
                  const LabelOut *out);

/* What levels are chosen for and from. logits: [rows, frames]. reaches: the first and the last level for each of
   LABEL_BINS bins of a logit. kept: the probability of each level. sigmoid: LABEL_PLACES times two numbers. quiet: a
   level. */
#define LABEL_BINS 98305
#define LABEL_PLACES 1537
typedef struct {
    const float *logits;
    size_t rows, frames;
    const int16_t *reaches;
    const double *kept, *sigmoid;
    size_t levels;
    double keeps;
    int quiet;
} LabelFit;

void choose_label_fit(int portable);
/* 1: levels [rows, frames] are written, and of each row the sums of p x and of its loss; 0: logits are not within +-24,
   or the table has not the levels that they reach; -1: no memory. */
int fit_label(const LabelFit *fit, uint16_t *levels, double *given, double *loss);
/* Whether all codes are within reach of their logits, and the loss of each row changes by no more than that share of
   itself or `floor` nats a cell. -1: logits are not within +-24. `kept` and `sigmoid` are not used. */
int label_holds(const LabelFit *fit, const float *probabilities, const uint16_t *codes, const double *given,
                const double *loss, double share, double floor);
typedef struct {
    size_t runs, stated, jumps;
} RunCounts;

/* What decode_runs reads, of levels [rows, frames] up to 32,767. Room: a byte a level for the tokens, three for the
   side stream. Returns 0 where levels are larger. */
int encode_runs(const uint16_t *levels, size_t rows, size_t frames, unsigned char *tokens, unsigned char *side,
                RunCounts *counts);

#endif
