/* Labels: codes into a table of what the caller wants of each, on little-endian processors. Values are moved as bits,
   whatever they are. */
#include "kernels.h"

#include <string.h>

#define LAST 14
#define STATED 15
#define LONGEST (STATED + 255)
#define AT_MOST 256 /* cells whose runs are looked for at once */

static unsigned char *row_at(const LabelOut *out, size_t row, size_t columns)
{
    if (out->places) {
        if (out->places[row] < 0)
            return NULL;
        row = (size_t)out->places[row];
    }
    return out->memory + row * columns * out->value_bytes;
}

/* `count` times the value of `code`, in a row with room for `room` values. Most runs are short and of any length, so
   that a loop that ends with the run would end unforeseen: sixteen at a time, and what is too much is written over. */
#define AT_ONCE 16
#define REPEAT(name, type) \
    ALWAYS_INLINE void name(unsigned char *to, const unsigned char *table, size_t code, size_t count, size_t room) \
    { \
        type value, *at = (type *)(void *)to; \
        size_t i = 0; \
        memcpy(&value, table + code * sizeof value, sizeof value); \
        while (i < count && room - i >= AT_ONCE) { \
            for (size_t k = 0; k < AT_ONCE; k++) \
                at[i + k] = value; \
            i += AT_ONCE; \
        } \
        for (; i < count; i++) \
            at[i] = value; \
    }
REPEAT(repeat4, uint32_t)
REPEAT(repeat2, uint16_t)

ALWAYS_INLINE int runs_of(const unsigned char *tokens, size_t runs, const unsigned char *side, size_t stated,
                          size_t jumps, size_t rows, size_t frames, const LabelOut *out, const size_t value_bytes)
{
    /* +1, -1, +2, -2, ... */
    static const int8_t steps[STATED] = {1, -1, 2, -2, 3, -3, 4, -4, 5, -5, 6, -6, 7, -7, 8};
    const unsigned char *lengths = side, *low = side + stated, *high = side + stated + jumps;
    size_t lengths_read = 0, jumps_read = 0, run = 0;
    int64_t level = 0;
    int leaves = 0;
    for (size_t row = 0; row < rows; row++) {
        unsigned char *to = row_at(out, row, frames);
        size_t left = frames;
        for (int is_last = 0; !is_last; run++) {
            if (run == runs)
                return 1;
            unsigned token = tokens[run], length_code = token >> 4, step_code = token & 15;
            size_t length = length_code + 1;
            is_last = length_code == LAST;
            if (length_code == STATED) {
                if (lengths_read == stated)
                    return 1;
                length = (size_t)lengths[lengths_read++] + STATED;
            }
            if (LIKELY(step_code < STATED)) {
                level += steps[step_code];
            } else {
                if (jumps_read == jumps)
                    return 1;
                unsigned zigzag = low[jumps_read] | (unsigned)high[jumps_read] << 8;
                jumps_read++;
                level += (int64_t)(zigzag >> 1) ^ -(int64_t)(zigzag & 1);
            }
            if (is_last)
                length = left;
            /* Which error it is depends on the streams as a whole: count on. */
            if (UNLIKELY(level < 0 || (uint64_t)level >= out->table_values || length > left || !length)) {
                leaves = 1;
                length = length > left ? left : length;
            } else if (to && !leaves) {
                if (value_bytes == 4)
                    repeat4(to, out->table, (size_t)level, length, left);
                else
                    repeat2(to, out->table, (size_t)level, length, left);
                to += length * value_bytes;
            }
            left -= length;
        }
    }
    if (run != runs || lengths_read != stated || jumps_read != jumps)
        return 1;
    return leaves ? 2 : 0;
}

int decode_runs(const unsigned char *tokens, size_t runs, const unsigned char *side, size_t stated, size_t jumps,
                size_t rows, size_t frames, const LabelOut *out)
{
    return out->value_bytes == 4 ? runs_of(tokens, runs, side, stated, jumps, rows, frames, out, 4)
                                 : runs_of(tokens, runs, side, stated, jumps, rows, frames, out, 2);
}

/* Where runs are written, and how many have been. */
typedef struct {
    unsigned char *tokens, *lengths, *low, *high;
    RunCounts counts;
} RunsOut;

/* Without a branch, which would seldom be foreseen: what is not stated is written over by the next that is. */
ALWAYS_INLINE void put_run(RunsOut *out, size_t length, int step, int is_last)
{
    unsigned sign = step < 0 ? ~0u : 0, stated = (unsigned)step << 1 ^ sign;
    unsigned zigzag = stated - (2 & ~sign); /* 2 step - 2 or -2 step - 1; of 0 as large as can be */
    unsigned step_code = zigzag < STATED ? zigzag : STATED;
    unsigned length_code = is_last ? LAST : length < STATED ? (unsigned)length - 1 : STATED;
    out->tokens[out->counts.runs++] = (unsigned char)(length_code << 4 | step_code);
    out->lengths[out->counts.stated] = (unsigned char)(length - STATED);
    out->counts.stated += length_code == STATED;
    out->low[out->counts.jumps] = (unsigned char)stated;
    out->high[out->counts.jumps] = (unsigned char)(stated >> 8);
    out->counts.jumps += step_code == STATED;
}

int encode_runs(const uint16_t *levels, size_t rows, size_t frames, unsigned char *tokens, unsigned char *side,
                RunCounts *counts)
{
    size_t cells = rows * frames;
    RunsOut out = {tokens, side, side + cells, side + 2 * cells, {0, 0, 0}};
    uint32_t starts[AT_MOST + 1];
    int before = 0;
    unsigned all = 0;
    for (size_t row = 0; row < rows; row++, levels += frames) {
        size_t start = 0;
        for (size_t done = 0; done < frames; done += AT_MOST) {
            size_t stop = frames - done < AT_MOST ? frames : done + AT_MOST, count = 0;
            for (size_t t = done ? done : 1; t < stop; t++) {
                starts[count] = (uint32_t)t;
                count += levels[t] != levels[t - 1];
            }
            if (stop == frames)
                starts[count++] = (uint32_t)frames;
            for (size_t i = 0; i < count; i++) {
                size_t end = starts[i], length = end - start;
                int level = levels[start], step = level - before;
                if (end < frames) /* a run too long to be stated goes on with a step of 0 */
                    for (; UNLIKELY(length > LONGEST); length -= LONGEST, step = 0)
                        put_run(&out, LONGEST, step, 0);
                put_run(&out, length, step, end == frames);
                all |= (unsigned)level;
                before = level;
                start = end;
            }
        }
    }
    memmove(side + out.counts.stated, out.low, out.counts.jumps);
    memmove(side + out.counts.stated + out.counts.jumps, out.high, out.counts.jumps);
    *counts = out.counts;
    return all <= 32767;
}

/* The places of float16 in the order of numbers: 0 is at 0, -0 at -1, infinities and NaN are at both ends. Either way
   between a place and its bits is the same. */
ALWAYS_INLINE int16_t turned(int16_t place_or_bits)
{
    return (int16_t)(place_or_bits ^ (place_or_bits < 0 ? 0x7fff : 0));
}

typedef struct {
    int16_t lowest, highest;
} Places;

ALWAYS_INLINE void widen(Places *seen, int16_t place)
{
    seen->lowest = place < seen->lowest ? place : seen->lowest;
    seen->highest = place > seen->highest ? place : seen->highest;
}

static int are_values(Places seen, int are_probabilities)
{
    return are_probabilities ? seen.lowest >= -1 && seen.highest <= 0x3c00          /* -0, 1 */
                             : seen.lowest >= -0x7c00 && seen.highest <= 0x7bff; /* -65504, 65504 */
}

ALWAYS_INLINE void look_up(int16_t bits, unsigned char *to, const unsigned char *table, size_t value_bytes)
{
    memcpy(to, table + (uint16_t)bits * value_bytes, value_bytes);
}

ALWAYS_INLINE void float16_row(const unsigned char *restrict from, unsigned char *restrict to, size_t columns,
                               const unsigned char *restrict table, size_t value_bytes, Places *seen)
{
    int16_t bits;
    Places here = *seen;
    for (size_t i = 0; i < columns; i++) { /* a loop of its own, which the compiler makes one over eight at a time */
        memcpy(&bits, from + 2 * i, 2);
        widen(&here, turned(bits));
    }
    for (size_t i = 0; i < columns; i++) {
        memcpy(&bits, from + 2 * i, 2);
        look_up(bits, to + i * value_bytes, table, value_bytes);
    }
    *seen = here;
}

int look_up_float16(const unsigned char *bits, size_t rows, size_t columns, const LabelOut *out)
{
    Places seen = {0, 0};
    for (size_t row = 0; row < rows; row++, bits += 2 * columns) {
        unsigned char *to = row_at(out, row, columns);
        if (to && out->value_bytes == 4)
            float16_row(bits, to, columns, out->table, 4, &seen);
        else if (to)
            float16_row(bits, to, columns, out->table, 2, &seen);
    }
    return are_values(seen, out->are_probabilities);
}

ALWAYS_INLINE void packed_row(const unsigned char *restrict high, const unsigned char *restrict low,
                              unsigned char *restrict to, size_t columns, const unsigned char *restrict table,
                              size_t value_bytes, Places *seen)
{
    int16_t place = 0;
    Places here = *seen;
    for (size_t i = 0; i < columns; i++) {
        unsigned zigzag = low[i] | (unsigned)high[i] << 8;
        place = (int16_t)(place + (int)(zigzag >> 1 ^ (0 - (zigzag & 1))));
        look_up(turned(place), to + i * value_bytes, table, value_bytes);
        widen(&here, place);
    }
    *seen = here;
}

int decode_packed(const unsigned char *high, const unsigned char *low, size_t rows, size_t columns, const LabelOut *out)
{
    Places seen = {0, 0};
    for (size_t row = 0; row < rows; row++, high += columns, low += columns) {
        unsigned char *to = row_at(out, row, columns);
        if (to && out->value_bytes == 4)
            packed_row(high, low, to, columns, out->table, 4, &seen);
        else if (to)
            packed_row(high, low, to, columns, out->table, 2, &seen);
    }
    return are_values(seen, out->are_probabilities);
}
