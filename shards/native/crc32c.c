/* CRC-32C (Castagnoli): by the processor's instruction where it has one, else eight table look-ups for eight bytes. */
#include "kernels.h"

#include <string.h>

#ifdef X86_DISPATCH
#include <nmmintrin.h>
#endif

#define POLYNOMIAL 0x82f63b78u

static uint32_t table[8][256];
static uint32_t (*update)(uint32_t, const unsigned char *, size_t);

static uint32_t update_by_table(uint32_t crc, const unsigned char *p, size_t size)
{
    for (; size >= 8; size -= 8, p += 8) {
        crc ^= (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
        crc = table[7][crc & 255] ^ table[6][crc >> 8 & 255] ^ table[5][crc >> 16 & 255] ^ table[4][crc >> 24] ^
              table[3][p[4]] ^ table[2][p[5]] ^ table[1][p[6]] ^ table[0][p[7]];
    }
    for (; size; size--, p++)
        crc = crc >> 8 ^ table[0][(crc ^ *p) & 255];
    return crc;
}

#ifdef X86_DISPATCH
/* The instruction takes three cycles and can begin every cycle: three stretches at once, then put together. */
#define STRETCH 1024

/* over_stretch[k][b]: what byte k = b of a checksum becomes after STRETCH zeros. */
static uint32_t over_stretch[4][256];

static uint32_t pass_stretch(uint32_t crc)
{
    return over_stretch[0][crc & 255] ^ over_stretch[1][crc >> 8 & 255] ^ over_stretch[2][crc >> 16 & 255] ^
           over_stretch[3][crc >> 24];
}

ALWAYS_INLINE uint64_t load(const unsigned char *p)
{
    uint64_t word;
    memcpy(&word, p, sizeof word);
    return word;
}

__attribute__((target("sse4.2"))) static uint32_t update_by_hardware(uint32_t crc, const unsigned char *p, size_t size)
{
    for (; size >= 3 * STRETCH; size -= 3 * STRETCH, p += 3 * STRETCH) {
        uint32_t second = 0, third = 0;
        for (size_t i = 0; i < STRETCH; i += 8) {
            crc = (uint32_t)_mm_crc32_u64(crc, load(p + i));
            second = (uint32_t)_mm_crc32_u64(second, load(p + STRETCH + i));
            third = (uint32_t)_mm_crc32_u64(third, load(p + 2 * STRETCH + i));
        }
        crc = pass_stretch(pass_stretch(crc) ^ second) ^ third;
    }
    for (; size >= 8; size -= 8, p += 8)
        crc = (uint32_t)_mm_crc32_u64(crc, load(p));
    for (; size; size--, p++)
        crc = _mm_crc32_u8(crc, *p);
    return crc;
}
#endif

uint32_t crc32c(const unsigned char *bytes, size_t size)
{
    return ~update(0xffffffffu, bytes, size);
}

void prepare_crc32c(void)
{
    for (unsigned i = 0; i < 256; i++) {
        uint32_t crc = i;
        for (unsigned bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? POLYNOMIAL : 0);
        table[0][i] = crc;
    }
    for (unsigned k = 1; k < 8; k++)
        for (unsigned i = 0; i < 256; i++)
            table[k][i] = table[k - 1][i] >> 8 ^ table[0][table[k - 1][i] & 255];
#ifdef X86_DISPATCH
    static const unsigned char zeros[STRETCH];
    for (unsigned bit = 0; bit < 32; bit++) {
        uint32_t passed = update_by_table((uint32_t)1 << bit, zeros, STRETCH);
        for (unsigned i = 0; i < 256; i++)
            if (i >> bit % 8 & 1)
                over_stretch[bit / 8][i] ^= passed;
    }
#endif
}

void choose_crc32c(int portable)
{
    update = update_by_table;
#ifdef X86_DISPATCH
    __builtin_cpu_init();
    if (!portable && __builtin_cpu_supports("sse4.2"))
        update = update_by_hardware;
#else
    (void)portable;
#endif
}
