/* Logits to levels, the same levels as shards/codecs/_label_fit.py chooses, where it says what is done and why. What is
   added up are whole numbers, which float64 holds in whatever order they are added; the rest is single operations of
   IEEE 754, none of them contracted with another (-ffp-contract=off). */
#include "label_fit.h"

#include <stdlib.h>

#define STEPS_PER_LOGIT 64
#define LANES 8 /* rows whose runs are cut at once */

/* Of `lanes` rows side by side. */
typedef struct {
    int16_t *lowest, *highest, *low, *high, *is_new;
    size_t lanes;
} Block;

static void reach(const LabelFit *fit, const float *logits, const Block *block, size_t lane)
{
    int32_t bins[AT_ONCE];
    for (size_t done = 0; done < fit->frames; done += AT_ONCE) {
        size_t count = fit->frames - done < AT_ONCE ? fit->frames - done : AT_ONCE;
        int16_t *lowest = block->lowest + done * block->lanes + lane;
        int16_t *highest = block->highest + done * block->lanes + lane;
        for (size_t i = 0; i < count; i++)
            bins[i] = bin_of(logits[done + i]);
        for (size_t i = 0; i < count; i++) {
            lowest[i * block->lanes] = fit->reaches[2 * bins[i]];
            highest[i * block->lanes] = fit->reaches[2 * bins[i] + 1];
        }
    }
}

/* As few runs as there can be: each goes on for as long as one level suits its cells. 0: not levels of the table. */
static int cut(const Block *block, size_t frames, size_t levels)
{
    int outside = 0;
    size_t lane = 0;
#if defined(__GNUC__) || defined(__clang__)
    if (block->lanes == LANES) {
        typedef int16_t Lanes __attribute__((vector_size(2 * LANES)));
        Lanes low = {0}, high = {0}, wrong = {0};
        low -= 1;
        high -= 2;
        for (size_t at = 0; at < frames * LANES; at += LANES) {
            Lanes lowest, highest;
            memcpy(&lowest, block->lowest + at, sizeof lowest);
            memcpy(&highest, block->highest + at, sizeof highest);
            Lanes raises = lowest > low, lowers = highest < high;
            low = (lowest & raises) | (low & ~raises);
            high = (highest & lowers) | (high & ~lowers);
            Lanes is_new = low > high;
            low = (lowest & is_new) | (low & ~is_new);
            high = (highest & is_new) | (high & ~is_new);
            wrong |= (lowest < 0) | (highest >= (int16_t)levels) | (lowest > highest);
            memcpy(block->low + at, &low, sizeof low);
            memcpy(block->high + at, &high, sizeof high);
            memcpy(block->is_new + at, &is_new, sizeof is_new);
        }
        for (; lane < LANES; lane++)
            outside |= wrong[lane];
    }
#endif
    for (; lane < block->lanes; lane++) {
        int low = -1, high = -2;
        for (size_t at = lane; at < frames * block->lanes; at += block->lanes) {
            int lowest = block->lowest[at], highest = block->highest[at];
            low = lowest > low ? lowest : low;
            high = highest < high ? highest : high;
            int is_new = low > high;
            low = is_new ? lowest : low;
            high = is_new ? highest : high;
            outside |= (lowest < 0) | (highest >= (int)levels) | (lowest > highest);
            block->low[at] = (int16_t)low;
            block->high[at] = (int16_t)high;
            block->is_new[at] = (int16_t)is_new;
        }
    }
    return !outside;
}

/* Of the logits: x, the sums of x and p before each place, and those of p x and of the loss. */
ALWAYS_INLINE void weigh_row(const LabelFit *fit, const float *logits, double one, Row *row)
{
    const double scale = one / fit->keeps, logit = 1 / one, probability = one * PER_LOGIT;
    double size[AT_ONCE], off[AT_ONCE], exps[AT_ONCE], softpluses[AT_ONCE];
    int64_t whole_x[AT_ONCE], whole_p[AT_ONCE], sum_x = 0, sum_p = 0;
    int32_t places[AT_ONCE];
    row->given = row->loss = 0;
    for (size_t done = 0; done < fit->frames; done += AT_ONCE) {
        size_t count = fit->frames - done < AT_ONCE ? fit->frames - done : AT_ONCE;
        double *x = row->x + done;
        for (size_t i = 0; i < count; i++) {
            x[i] = whole((double)logits[done + i] * scale);
            whole_x[i] = integer(x[i]);
            size[i] = fabs(x[i]) * logit;
            double place = whole(size[i] * STEPS_PER_LOGIT);
            off[i] = size[i] - place * (1.0 / STEPS_PER_LOGIT);
            places[i] = (int32_t)place;
        }
        for (size_t i = 0; i < count; i++) {
            exps[i] = fit->sigmoid[2 * places[i]];
            softpluses[i] = fit->sigmoid[2 * places[i] + 1];
        }
        for (size_t i = 0; i < count; i++) {
            double d = off[i];
            double e = exps[i] * (1 - d * (1 - d * (0.5 - d * (1.0 / 6 - d * (1.0 / 24)))));
            double unlikely = e / (1 + e), likely = 1 - unlikely, p = x[i] < 0 ? unlikely : likely;
            double softplus = softpluses[i] - d * unlikely * (1 + 0.5 * d * likely);
            whole_p[i] = integer(p * probability);
            exps[i] = whole(p * x[i]);
            softpluses[i] = whole((softplus + size[i] * unlikely) * one);
        }
        for (size_t i = 0; i < count; i++) {
            row->sum[done + i] = sum_x;
            row->probability[done + i] = sum_p;
            sum_x += whole_x[i];
            sum_p += whole_p[i];
        }
        row->given += sum(exps, count);
        row->loss += sum(softpluses, count);
    }
    row->sum[fit->frames] = sum_x;
    row->probability[fit->frames] = sum_p;
}

#ifdef X86_DISPATCH
static int has_vectors;

__attribute__((target("avx2"))) static void weigh_by_vectors(const LabelFit *fit, const float *logits, double one,
                                                             Row *row)
{
    weigh_row(fit, logits, one, row);
}
#endif

static void weigh(const LabelFit *fit, const float *logits, double one, Row *row)
{
#ifdef X86_DISPATCH
    if (has_vectors) {
        weigh_by_vectors(fit, logits, one, row);
        return;
    }
#endif
    weigh_row(fit, logits, one, row);
}

static void list_runs(const LabelFit *fit, const int16_t *is_new, Row *row)
{
    size_t count = 0;
    for (size_t t = 0; t < fit->frames; t++) {
        row->runs[count].start = t; /* of the next run, if it is one: a branch would seldom be foreseen */
        count += (size_t)(is_new[t * row->lanes] & 1);
    }
    row->runs[count].start = fit->frames;
    row->count = count;
}

static void forget(Row *row, Block *block)
{
    free(row->x);
    free(row->sum);
    free(row->runs);
    free(row->stretches);
    free(row->moved);
    free(block->lowest);
}

static int remember(const LabelFit *fit, Row *row, Block *block)
{
    size_t frames = fit->frames, lanes = fit->rows < LANES ? fit->rows : LANES, in_lanes = frames * lanes;
    memset(row, 0, sizeof *row);
    row->x = malloc(3 * frames * sizeof *row->x);
    row->sum = malloc(2 * (frames + 1) * sizeof *row->sum);
    row->runs = malloc((frames + 1) * sizeof *row->runs);
    row->stretches = malloc((frames / 2 + 1) * sizeof *row->stretches);
    row->moved = malloc(frames * sizeof *row->moved);
    block->lowest = malloc(5 * in_lanes * sizeof *block->lowest);
    if (!row->x || !row->sum || !row->runs || !row->stretches || !row->moved || !block->lowest)
        return 0;
    row->effects[0] = row->x + frames;
    row->effects[1] = row->effects[0] + frames;
    row->probability = row->sum + frames + 1;
    block->highest = block->lowest + in_lanes;
    block->low = block->highest + in_lanes;
    block->high = block->low + in_lanes;
    block->is_new = block->high + in_lanes;
    block->lanes = row->lanes = lanes;
    return 1;
}

/* The rows from `first` on that are in one block. */
static int fit_block(const LabelFit *fit, size_t first, const Block *block, Row *row, uint16_t *levels, double *given,
                     double *loss)
{
    const double one = one_of(fit->frames);
    const size_t cells = fit->rows * fit->frames;
    size_t lanes = fit->rows - first < block->lanes ? fit->rows - first : block->lanes;
    for (size_t lane = 0; lane < lanes; lane++)
        reach(fit, fit->logits + (first + lane) * fit->frames, block, lane);
    if (!cut(block, fit->frames, fit->levels))
        return 0;
    for (size_t lane = 0; lane < lanes; lane++) {
        size_t at = (first + lane) * fit->frames, next = at + fit->frames;
        row->lowest = block->lowest + lane;
        row->highest = block->highest + lane;
        row->low = block->low + lane;
        row->high = block->high + lane;
        list_runs(fit, block->is_new + lane, row);
        weigh(fit, fit->logits + at, one, row);
        given[first + lane] = row->given;
        loss[first + lane] = row->loss;
        double behind = whole((double)fit->logits[next < cells ? next : cells - 1] * (one / fit->keeps));
        choose_row(fit, one, behind, row, levels + at);
    }
    return 1;
}

int fit_label(const LabelFit *fit, uint16_t *levels, double *given, double *loss)
{
    Row row;
    Block block;
    int result = -1;
    if (remember(fit, &row, &block)) {
        memset(block.lowest, 0, 5 * block.lanes * fit->frames * sizeof *block.lowest); /* lanes without a row */
        result = are_logits(fit->logits, fit->rows * fit->frames);
        for (size_t first = 0; result && first < fit->rows; first += block.lanes)
            result = fit_block(fit, first, &block, &row, levels, given, loss);
    }
    forget(&row, &block);
    return result;
}

void choose_label_fit(int portable)
{
#ifdef X86_DISPATCH
    __builtin_cpu_init();
    has_vectors = !portable && __builtin_cpu_supports("avx2");
    choose_label_holds(has_vectors);
#else
    (void)portable;
#endif
}
