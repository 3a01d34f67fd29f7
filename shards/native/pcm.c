/* Int16 samples to where a batch wants them, on little-endian processors. Most loops the compiler makes fast itself. */
#include "kernels.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

static const float scale = 1.0f / 32768.0f;

static int16_t *int16_at(const PcmOut *out, unsigned channel, size_t at)
{
    return (int16_t *)(void *)(out->memory + (ptrdiff_t)channel * out->channel_bytes) + at;
}

static float *float_at(const PcmOut *out, unsigned channel, size_t at)
{
    return (float *)(void *)(out->memory + (ptrdiff_t)channel * out->channel_bytes) + at;
}

void store_pcm(const int32_t *pcm, size_t samples, const PcmOut *out, unsigned channel, size_t at)
{
    if (out->is_float) {
        float *to = float_at(out, channel, at);
        for (size_t i = 0; i < samples; i++)
            to[i] = (float)pcm[i] * scale;
    } else {
        int16_t *to = int16_at(out, channel, at);
        for (size_t i = 0; i < samples; i++)
            to[i] = (int16_t)pcm[i];
    }
}

#if defined(__SSE2__)
/* The sums of the eight at `differences`, behind all before them, whose sum is in each place of `carry`. */
ALWAYS_INLINE __m128i sum_eight(const uint16_t *differences, __m128i *carry)
{
    __m128i x = _mm_loadu_si128((const __m128i *)(const void *)differences);
    x = _mm_add_epi16(x, _mm_slli_si128(x, 2));
    x = _mm_add_epi16(x, _mm_slli_si128(x, 4));
    x = _mm_add_epi16(x, _mm_slli_si128(x, 8));
    __m128i total = _mm_shuffle_epi32(_mm_shufflehi_epi16(x, 0xff), 0xff);
    x = _mm_add_epi16(x, *carry);
    *carry = _mm_add_epi16(*carry, total);
    return x;
}
#endif

/* Sums of the differences from `sum` on; returns the last. */
static uint16_t sum_to_float(const uint16_t *differences, float *to, size_t samples, uint16_t sum)
{
    size_t i = 0;
#if defined(__SSE2__)
    __m128i carry = _mm_set1_epi16((short)sum);
    const __m128 scales = _mm_set1_ps(scale);
    for (; i + 8 <= samples; i += 8) {
        __m128i x = sum_eight(differences + i, &carry);
        __m128i low = _mm_srai_epi32(_mm_unpacklo_epi16(x, x), 16), high = _mm_srai_epi32(_mm_unpackhi_epi16(x, x), 16);
        _mm_storeu_ps(to + i, _mm_mul_ps(_mm_cvtepi32_ps(low), scales));
        _mm_storeu_ps(to + i + 4, _mm_mul_ps(_mm_cvtepi32_ps(high), scales));
    }
    sum = (uint16_t)_mm_extract_epi16(carry, 0);
#endif
    for (; i < samples; i++) {
        sum = (uint16_t)(sum + differences[i]);
        to[i] = (float)(int16_t)sum * scale;
    }
    return sum;
}

static uint16_t sum_to_int16(const uint16_t *differences, int16_t *to, size_t samples, uint16_t sum)
{
    size_t i = 0;
#if defined(__SSE2__)
    __m128i carry = _mm_set1_epi16((short)sum);
    for (; i + 8 <= samples; i += 8)
        _mm_storeu_si128((__m128i *)(void *)(to + i), sum_eight(differences + i, &carry));
    sum = (uint16_t)_mm_extract_epi16(carry, 0);
#endif
    for (; i < samples; i++) {
        sum = (uint16_t)(sum + differences[i]);
        to[i] = (int16_t)sum;
    }
    return sum;
}

void running_sum(const uint16_t *differences, unsigned channels, size_t samples, const PcmOut *out)
{
    uint16_t sum = 0;
    for (unsigned channel = 0; channel < channels; channel++, differences += samples)
        sum = out->is_float ? sum_to_float(differences, float_at(out, channel, 0), samples, sum)
                            : sum_to_int16(differences, int16_at(out, channel, 0), samples, sum);
}
