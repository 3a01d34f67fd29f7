/* What the parts of the label encoder share: numbers that are whole, and what is known of one row. */
#ifndef SED_DISTILL_LABEL_FIT_H
#define SED_DISTILL_LABEL_FIT_H

#include "kernels.h"

#include <math.h>
#include <string.h>

#define MAX_LOGIT 24
#define BINS_PER_LOGIT 2048
#define PER_LOGIT 32.0 /* units of a probability to one of a logit */
#define AT_ONCE 256

typedef struct {
    size_t start, length;
    double weight; /* the sum of x */
    int level, is_whole;
} Run;

typedef struct {
    size_t first, end;
} Stretch;

/* Of one row; x: its logits in whole units. What lies in lanes is at place t * lanes of its cell t. */
typedef struct {
    double *x, *effects[2];     /* of moving a run where the row's loss is too low, and where it is too high */
    int64_t *sum, *probability; /* the sums of x and of p before each place */
    Run *runs;
    Stretch *stretches;
    const int16_t *lowest, *highest; /* in lanes: of each cell */
    const int16_t *low, *high;       /* in lanes: open to the run of each cell up to that cell */
    int16_t *moved;
    size_t lanes, count; /* of runs */
    double off;          /* how much too high the row's loss is */
    double given, loss, tolerated;
} Row;

/* The whole number next to a number within 2^51, even where two are. */
ALWAYS_INLINE double whole(double value)
{
    const double shift = 6755399441055744.0;
    return (value + shift) - shift;
}

/* whole(value) as an integer. */
ALWAYS_INLINE int64_t integer(double value)
{
    const double shift = 6755399441055744.0;
    double shifted = value + shift;
    int64_t bits, of_shift;
    memcpy(&bits, &shifted, sizeof bits);
    memcpy(&of_shift, &shift, sizeof of_shift);
    return bits - of_shift;
}

/* Of whole numbers, so in any order. */
ALWAYS_INLINE double sum(const double *values, size_t count)
{
    double sums[4] = {0};
    size_t i = 0;
    for (; i + 4 <= count; i += 4)
        for (size_t k = 0; k < 4; k++)
            sums[k] += values[i + k];
    for (; i < count; i++)
        sums[0] += values[i];
    return sums[0] + sums[1] + sums[2] + sums[3];
}

/* How many units a logit is: as `one_of` of shards/codecs/_label_units.py. */
static inline double one_of(size_t frames)
{
    double one = 70368744177664.0; /* 2^46 */
    for (size_t left = frames; left; left >>= 1)
        one /= 2;
    return one;
}

static inline int are_logits(const float *logits, size_t count)
{
    int outside = 0;
    for (size_t i = 0; i < count; i++)
        outside |= !(fabsf(logits[i]) <= MAX_LOGIT); /* NaN, too */
    return !outside;
}

ALWAYS_INLINE int32_t bin_of(float logit)
{
    return (int32_t)((logit + (float)MAX_LOGIT) * (float)BINS_PER_LOGIT + 0.5f);
}

/* The levels of a row that knows its runs, its sums and how far its loss may be off. `behind`: x behind the row. */
void choose_row(const LabelFit *fit, double one, double behind, Row *row, uint16_t *line);
/* By instructions that some processors have, where `has_vectors`. */
void choose_label_holds(int has_vectors);

#endif
