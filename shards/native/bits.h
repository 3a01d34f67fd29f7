/* Reading bits of memory, the highest of each byte first. Beyond its end there are zeros, and `overrun` says so. */
#ifndef SED_DISTILL_BITS_H
#define SED_DISTILL_BITS_H

#include "kernels.h"

typedef struct {
    const unsigned char *bytes;
    size_t size;
    size_t at;      /* the next byte to load; beyond `size` zeros are loaded */
    uint64_t cache; /* the next bits, from the top. Below `bits` of them: zeros, or bits that follow them */
    unsigned bits;  /* below 64 */
} Reader;

ALWAYS_INLINE unsigned leading_zeros(uint64_t value)
{
#if defined(__GNUC__) || defined(__clang__)
    return (unsigned)__builtin_clzll(value);
#else
    unsigned zeros = 0;
    while (!(value >> 63)) {
        value <<= 1;
        zeros++;
    }
    return zeros;
#endif
}

ALWAYS_INLINE uint64_t load_big_endian(const unsigned char *p)
{
    return (uint64_t)p[0] << 56 | (uint64_t)p[1] << 48 | (uint64_t)p[2] << 40 | (uint64_t)p[3] << 32 |
           (uint64_t)p[4] << 24 | (uint64_t)p[5] << 16 | (uint64_t)p[6] << 8 | (uint64_t)p[7];
}

/* At least 56 bits, of zeros where the stream has ended. */
ALWAYS_INLINE void refill(Reader *r)
{
    if (LIKELY(r->at + 8 <= r->size)) {
        r->cache |= load_big_endian(r->bytes + r->at) >> r->bits;
        r->at += (63 - r->bits) >> 3;
        r->bits |= 56;
        return;
    }
    while (r->bits < 56) {
        uint64_t byte = r->at < r->size ? r->bytes[r->at] : 0;
        r->cache |= byte << (56 - r->bits);
        r->at++;
        r->bits += 8;
    }
}

ALWAYS_INLINE void drop(Reader *r, unsigned count)
{
    r->cache <<= count;
    r->bits -= count;
}

/* Whether more has been read than there is. */
static inline int overrun(const Reader *r)
{
    return r->at * 8 - r->bits > r->size * 8;
}

/* The next `count` bits, at most 32. */
ALWAYS_INLINE uint32_t take(Reader *r, unsigned count)
{
    refill(r);
    uint32_t value = (uint32_t)(r->cache >> 1 >> (63 - count));
    drop(r, count);
    return value;
}

ALWAYS_INLINE int32_t take_signed(Reader *r, unsigned count)
{
    if (!count)
        return 0;
    uint32_t sign = (uint32_t)1 << (count - 1);
    return (int32_t)((take(r, count) ^ sign) - sign);
}

#endif
