/* Int16 samples to where a batch wants them, on little-endian processors. The loops over plain arrays are left to the compiler's vectoriser. */
#include "kernels.h"

#include <string.h>

#if defined(__SSE2__)
#include <emmintrin.h>
#elif defined(__ARM_NEON) && defined(__aarch64__) && !defined(__AARCH64EB__)
#include <arm_neon.h>
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

void interleaved(const unsigned char *bytes, unsigned channels, size_t samples, const PcmOut *out)
{
    for (unsigned channel = 0; channel < channels; channel++) {
        const unsigned char *from = bytes + 2 * (size_t)channel;
        int16_t *as_int16 = int16_at(out, channel, 0);
        float *as_float = float_at(out, channel, 0);
        size_t step = 2 * (size_t)channels;
        if (channels == 1 && !out->is_float)
            memcpy(as_int16, from, 2 * samples);
        else if (channels == 1) /* a stride that the vectoriser knows */
            for (size_t i = 0; i < samples; i++)
                as_float[i] = (float)(int16_t)(uint16_t)(from[2 * i] | from[2 * i + 1] << 8) * scale;
        else if (out->is_float)
            for (size_t i = 0; i < samples; i++)
                as_float[i] = (float)(int16_t)(uint16_t)(from[step * i] | from[step * i + 1] << 8) * scale;
        else
            for (size_t i = 0; i < samples; i++)
                as_int16[i] = (int16_t)(uint16_t)(from[step * i] | from[step * i + 1] << 8);
    }
}

/* Sums of the differences from `sum` on; returns the last. */
static uint16_t sum_to_float(const uint16_t *differences, float *to, size_t samples, uint16_t sum)
{
    size_t i = 0;
#if defined(__SSE2__)
    __m128i carry = _mm_set1_epi16((short)sum);
    const __m128 scales = _mm_set1_ps(scale);
    for (; i + 8 <= samples; i += 8) {
        __m128i x = _mm_loadu_si128((const __m128i *)(const void *)(differences + i));
        x = _mm_add_epi16(x, _mm_slli_si128(x, 2));
        x = _mm_add_epi16(x, _mm_slli_si128(x, 4));
        x = _mm_add_epi16(x, _mm_slli_si128(x, 8));
        __m128i total = _mm_shufflehi_epi16(x, 0xff);
        total = _mm_shuffle_epi32(total, 0xff);
        x = _mm_add_epi16(x, carry);
        carry = _mm_add_epi16(carry, total);
        __m128i low = _mm_srai_epi32(_mm_unpacklo_epi16(x, x), 16), high = _mm_srai_epi32(_mm_unpackhi_epi16(x, x), 16);
        _mm_storeu_ps(to + i, _mm_mul_ps(_mm_cvtepi32_ps(low), scales));
        _mm_storeu_ps(to + i + 4, _mm_mul_ps(_mm_cvtepi32_ps(high), scales));
    }
    sum = (uint16_t)_mm_extract_epi16(carry, 0);
#elif defined(__ARM_NEON) && defined(__aarch64__) && !defined(__AARCH64EB__)
    const uint16x8_t zero = vdupq_n_u16(0);
    uint16x8_t carry = vdupq_n_u16(sum);
    for (; i + 8 <= samples; i += 8) {
        uint16x8_t x = vld1q_u16(differences + i);
        x = vaddq_u16(x, vextq_u16(zero, x, 7));
        x = vaddq_u16(x, vextq_u16(zero, x, 6));
        x = vaddq_u16(x, vextq_u16(zero, x, 4));
        uint16x8_t total = vdupq_laneq_u16(x, 7);
        x = vaddq_u16(x, carry);
        carry = vaddq_u16(carry, total);
        int16x8_t pcm = vreinterpretq_s16_u16(x);
        vst1q_f32(to + i, vmulq_n_f32(vcvtq_f32_s32(vmovl_s16(vget_low_s16(pcm))), scale));
        vst1q_f32(to + i + 4, vmulq_n_f32(vcvtq_f32_s32(vmovl_s16(vget_high_s16(pcm))), scale));
    }
    sum = vgetq_lane_u16(carry, 0);
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
    for (; i + 8 <= samples; i += 8) {
        __m128i x = _mm_loadu_si128((const __m128i *)(const void *)(differences + i));
        x = _mm_add_epi16(x, _mm_slli_si128(x, 2));
        x = _mm_add_epi16(x, _mm_slli_si128(x, 4));
        x = _mm_add_epi16(x, _mm_slli_si128(x, 8));
        __m128i total = _mm_shuffle_epi32(_mm_shufflehi_epi16(x, 0xff), 0xff);
        _mm_storeu_si128((__m128i *)(void *)(to + i), _mm_add_epi16(x, carry));
        carry = _mm_add_epi16(carry, total);
    }
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
