/* The levels of one row: of each run the one next to its mean probability; then some move until the row's loss is what
   it was: those of whole runs, of the first frames of runs, of cells anywhere. */
#include "label_fit.h"

#include <stdlib.h>

#define PASSES 4
#define SHARE 0.005
#define FLOOR 1e-6

/* To each run the open level next to its mean probability. */
static void choose_levels(const LabelFit *fit, double one, Row *row)
{
    const double *q = fit->kept, unit = one * PER_LOGIT;
    row->off = -row->given;
    for (Run *run = row->runs, *end = run + row->count; run < end; run++) {
        size_t start = run->start, stop = run[1].start, last = (stop - 1) * row->lanes;
        double mean = (double)(row->probability[stop] - row->probability[start]) / (double)(stop - start);
        int level = row->low[last];
        while (level < row->high[last] && (q[level + 1] + q[level]) / 2 * unit < mean)
            level++;
        run->length = stop - start;
        run->weight = (double)(row->sum[stop] - row->sum[start]);
        run->level = level;
        run->is_whole = 1;
        row->off += whole(q[level] * run->weight);
    }
}

/* The level next to `level` that lessens how far a loss is off, for cells whose x sum up to `weight`. */
ALWAYS_INLINE int moved_level(const LabelFit *fit, int level, double off, double weight)
{
    int moved = off * weight > 0 ? level - 1 : level + 1;
    return moved < 0 ? 0 : moved >= (int)fit->levels ? (int)fit->levels - 1 : moved;
}

ALWAYS_INLINE int is_open(const LabelFit *fit, int level, int low, int high)
{
    int quiet = high < fit->quiet;
    return level >= low - quiet && level <= high + quiet;
}

static double effect_of(const LabelFit *fit, const Row *row, const Run *run, double direction)
{
    size_t last = (run->start + run->length - 1) * row->lanes;
    int moved = moved_level(fit, run->level, direction, run->weight);
    if (!is_open(fit, moved, row->low[last], row->high[last]))
        return INFINITY;
    return whole((fit->kept[moved] - fit->kept[run->level]) * run->weight);
}

static void move_runs(const LabelFit *fit, Row *row)
{
    int are_known[2] = {0, 0};
    for (int pass = 0; pass < PASSES && row->off != 0; pass++) {
        int is_high = row->off > 0;
        double *effects = row->effects[is_high], least = fabs(row->off);
        if (!are_known[is_high])
            for (size_t i = 0; i < row->count; i++)
                effects[i] = effect_of(fit, row, row->runs + i, is_high ? 1 : -1);
        are_known[is_high] = 1;
        size_t best = row->count;
        for (size_t i = 0; i < row->count; i++) {
            double left = fabs(row->off + effects[i]);
            if (UNLIKELY(left < least)) {
                least = left;
                best = i;
            }
        }
        if (best == row->count)
            return;
        Run *run = row->runs + best;
        run->level = moved_level(fit, run->level, row->off, run->weight);
        row->off += effects[best];
        for (int side = 0; side < 2; side++)
            if (are_known[side])
                row->effects[side][best] = effect_of(fit, row, run, side ? 1 : -1);
    }
}

/* How many of the first frames of a run sum up to `wanted` and may have level `moved`. `behind`: x behind the row. */
static size_t frames_for(const LabelFit *fit, const Row *row, const Run *run, double wanted, int moved, double behind)
{
    const int64_t *sum = row->sum + run->start;
    double length = (double)run->length, slope = run->weight / length;
    size_t frames = 0;
    for (int step = 0; step < 2; step++) {
        double lacking = wanted - (double)(sum[frames] - sum[0]);
        double at = (double)frames + (slope != 0 ? lacking / slope : 0);
        at = at < 0 ? 0 : at > length ? length : at;
        frames = (size_t)whole(at);
        slope = run->start + frames < fit->frames ? row->x[run->start + frames] : behind;
    }
    for (int tries = 0; frames; tries++) {
        size_t last = (run->start + frames - 1) * row->lanes;
        if (is_open(fit, moved, row->low[last], row->high[last]))
            break;
        frames = tries < 3 ? frames / 2 : 0;
    }
    return frames;
}

static void move_parts(const LabelFit *fit, Row *row, double behind, uint16_t *line)
{
    for (int pass = 0; pass < PASSES && fabs(row->off) > row->tolerated; pass++) {
        double least = fabs(row->off), best_effect = 0;
        size_t best_frames = 0;
        Run *best = NULL;
        for (Run *run = row->runs, *end = run + row->count; run < end; run++) {
            if (!run->is_whole)
                continue;
            int moved = moved_level(fit, run->level, row->off, run->weight);
            double gain = fit->kept[moved] - fit->kept[run->level];
            if (gain == 0)
                continue;
            size_t frames = frames_for(fit, row, run, -row->off / gain, moved, behind);
            double effect = whole(gain * (double)(row->sum[run->start + frames] - row->sum[run->start]));
            if (frames && fabs(row->off + effect) < least) {
                least = fabs(row->off + effect);
                best_effect = effect;
                best_frames = frames;
                best = run;
            }
        }
        if (!best)
            return;
        int moved = moved_level(fit, best->level, row->off, best->weight);
        for (size_t t = best->start; t < best->start + best_frames; t++)
            line[t] = (uint16_t)moved;
        best->is_whole = 0;
        row->off += best_effect;
    }
}

static int longer_or_earlier(const void *one, const void *other)
{
    const Stretch *a = one, *b = other;
    size_t of_a = a->end - a->first, of_b = b->end - b->first;
    if (of_a != of_b)
        return of_a > of_b ? -1 : 1;
    return a->first < b->first ? -1 : a->first > b->first;
}

static void move_stretches(const LabelFit *fit, Row *row, uint16_t *line)
{
    if (fabs(row->off) <= row->tolerated)
        return;
    double *effects = row->effects[0];
    size_t count = 0;
    for (size_t t = 0, was_open = 0; t <= fit->frames; t++) {
        size_t open = 0;
        if (t < fit->frames) {
            int moved = moved_level(fit, line[t], row->off, row->x[t]);
            row->moved[t] = (int16_t)moved;
            effects[t] = whole((fit->kept[moved] - fit->kept[line[t]]) * row->x[t]);
            open = (size_t)is_open(fit, moved, row->lowest[t * row->lanes], row->highest[t * row->lanes]);
        }
        if (open && !was_open)
            row->stretches[count].first = t;
        if (was_open && !open)
            row->stretches[count++].end = t;
        was_open = open;
    }
    qsort(row->stretches, count, sizeof *row->stretches, longer_or_earlier);
    for (const Stretch *stretch = row->stretches, *end = stretch + count; stretch < end; stretch++) {
        double rest = row->off, least = fabs(row->off), left = row->off;
        size_t stop = stretch->first;
        for (size_t t = stretch->first; t < stretch->end; t++) {
            rest += effects[t];
            if (fabs(rest) < least) {
                least = fabs(rest);
                left = rest;
                stop = t + 1;
            }
        }
        for (size_t t = stretch->first; t < stop; t++)
            line[t] = (uint16_t)row->moved[t];
        row->off = left;
        if (fabs(row->off) <= row->tolerated)
            return;
    }
}

/* Most runs are short and of any length: sixteen cells at a time, and what is too much is written over. */
static void fill(const LabelFit *fit, const Row *row, uint16_t *line)
{
    for (const Run *run = row->runs, *end = run + row->count; run < end; run++) {
        uint16_t level = (uint16_t)run->level, *at = line + run->start, *stop = at + run->length;
        for (; at < stop && line + fit->frames - at >= 16; at += 16)
            for (size_t k = 0; k < 16; k++)
                at[k] = level;
        while (at < stop)
            *at++ = level;
    }
}

void choose_row(const LabelFit *fit, double one, double behind, Row *row, uint16_t *line)
{
    row->tolerated = SHARE * row->loss;
    if (row->tolerated < FLOOR * one * (double)fit->frames)
        row->tolerated = FLOOR * one * (double)fit->frames;
    choose_levels(fit, one, row);
    move_runs(fit, row);
    fill(fit, row, line);
    move_parts(fit, row, behind, line);
    move_stretches(fit, row, line);
}

