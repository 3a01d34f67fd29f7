/* The residual of a FLAC subframe: Rice codes, and the prediction that each is added to at once, so that the processor
   does one while it waits for the other. */
#include "flac.h"

#ifdef X86_DISPATCH
#include <immintrin.h>
#endif

/* Codes with a larger parameter, which 16 bits do not need, might not fit 32 bits where they are taken at once. */
#define QUICK_PARAMETER 24
#define VECTOR_ORDER 9 /* the newest sample and eight */

#ifdef X86_DISPATCH
static int has_vectors;
#endif

int64_t take_unary(Reader *r)
{
    uint64_t zeros = 0;
    for (;;) {
        refill(r);
        uint64_t known = r->cache & ~(UINT64_MAX >> r->bits);
        if (known) {
            unsigned count = leading_zeros(known);
            drop(r, count + 1);
            return (int64_t)(zeros + count);
        }
        zeros += r->bits;
        r->cache = 0;
        /* Bits beyond `bits` were bits of the byte at `at`, which is loaded again. */
        r->bits = 0;
        if (overrun(r))
            return -1;
    }
}

ALWAYS_INLINE int32_t unfold(uint32_t folded)
{
    return (int32_t)(folded >> 1 ^ (0 - (folded & 1)));
}

/* What follows the samples before `s`, the newest of them given: it is the last to be known. */
ALWAYS_INLINE int32_t predicted(const int32_t *s, const int64_t *coefficients, unsigned order, unsigned shift,
                                int64_t newest)
{
    /* Without overflow: 32 products of 15 by 32 bits. */
    int64_t sum = 0;
    for (unsigned j = order - 1; j > 0; j--)
        sum += coefficients[j] * s[-1 - (ptrdiff_t)j];
    sum += coefficients[0] * newest;
    return (int32_t)(uint32_t)(uint64_t)(sum >> shift);
}

/* A Rice code that does not lie within the bits at hand. -1 where it is none. */
static int64_t take_long_rice(Reader *r, unsigned parameter)
{
    int64_t zeros = take_unary(r);
    if (zeros < 0 || (uint64_t)zeros > UINT32_MAX >> parameter)
        return -1;
    return (uint32_t)zeros << parameter | take(r, parameter);
}

/* A Rice code. -1 where it is none. */
ALWAYS_INLINE int64_t take_rice(Reader *r, unsigned parameter)
{
    unsigned zeros = leading_zeros(r->cache | 1), length = zeros + 1 + parameter;
    if (UNLIKELY(length > r->bits)) {
        Reader slow = *r; /* whose address is taken, where that of `r` is not */
        int64_t code = take_long_rice(&slow, parameter);
        *r = slow;
        return code;
    }
    r->cache <<= zeros; /* now begins with the one that ends the zeros */
    uint32_t code = (uint32_t)(r->cache >> (63 - parameter)) + ((zeros - 1) << parameter);
    r->cache <<= parameter + 1;
    r->bits -= length;
    return code;
}

/* `count` samples at `s`, each its prediction from those before it plus a Rice code of `parameter`. 0: not FLAC. */
ALWAYS_INLINE int rice(Reader *reader, int32_t *s, size_t count, const unsigned parameter, const Predictor *predictor,
                       const unsigned order)
{
    Reader r = *reader;
    const unsigned shift = predictor->shift;
    int64_t coefficients[MAX_ORDER], newest = order ? s[-1] : 0;
    for (unsigned j = 0; j < order; j++)
        coefficients[j] = predictor->coefficients[j];
    for (size_t i = 0; i < count; i++) {
        if (!(i & 1))
            refill(&r);
        int64_t code = take_rice(&r, parameter);
        if (UNLIKELY(code < 0))
            return 0;
        int32_t residual = unfold((uint32_t)code);
        if (order) {
            uint32_t value = (uint32_t)residual + (uint32_t)predicted(s + i, coefficients, order, shift, newest);
            s[i] = (int32_t)value;
            newest = (int32_t)value;
        } else {
            s[i] = residual;
        }
    }
    *reader = r;
    return 1;
}

#ifdef X86_DISPATCH
/* The sums of products for the next eight samples in one register, without the newest sample, whose product each waits
   for: a multiplication and a move of all by one sample, where there would be eight multiplications. */
__attribute__((target("avx2,bmi,bmi2"))) static int rice_by_vectors(Reader *reader, int32_t *s, size_t count,
                                                                    unsigned parameter, const Predictor *predictor)
{
    const __m256i next = _mm256_setr_epi32(1, 2, 3, 4, 5, 6, 7, 0), zero = _mm256_setzero_si256();
    Reader r = *reader;
    const unsigned shift = predictor->shift;
    int32_t older[VECTOR_ORDER - 1] = {0};
    for (unsigned j = 1; j < predictor->order; j++)
        older[j - 1] = (int32_t)predictor->coefficients[j];
    const __m256i coefficients = _mm256_loadu_si256((const __m256i *)(const void *)older);
    __m256i sums = zero;
#define PASS(sample) \
    sums = _mm256_add_epi32(_mm256_mullo_epi32(coefficients, _mm256_set1_epi32((int32_t)(sample))), \
                            _mm256_blend_epi32(_mm256_permutevar8x32_epi32(sums, next), zero, 0x80))
    for (unsigned back = predictor->order; back > 1; back--)
        PASS(s[-(ptrdiff_t)back]);
    uint32_t newest = (uint32_t)s[-1], coefficient = (uint32_t)predictor->coefficients[0];
    for (size_t i = 0; i < count; i++) {
        if (!(i & 1))
            refill(&r);
        int64_t code = take_rice(&r, parameter);
        if (UNLIKELY(code < 0))
            return 0;
        uint32_t sum = (uint32_t)_mm_cvtsi128_si32(_mm256_castsi256_si128(sums)) + coefficient * newest;
        PASS(newest);
        newest = (uint32_t)unfold((uint32_t)code) + (uint32_t)((int32_t)sum >> shift);
        s[i] = (int32_t)newest;
    }
#undef PASS
    *reader = r;
    return 1;
}
#endif

static int decode_rice(Reader *reader, int32_t *s, size_t count, unsigned parameter, const Predictor *predictor)
{
#ifdef X86_DISPATCH
    if (has_vectors && predictor->is_narrow && predictor->order > 3 && predictor->order <= VECTOR_ORDER)
        return rice_by_vectors(reader, s, count, parameter, predictor);
#endif
/* A loop that knows the order takes two thirds of the time. */
#define RICE_CASE(n) \
    case n: \
        return rice(reader, s, count, parameter, predictor, n);
    switch (predictor->order) {
        RICE_CASE(0)
        RICE_CASE(1)
        RICE_CASE(2)
        RICE_CASE(3)
        RICE_CASE(4)
        RICE_CASE(5)
        RICE_CASE(6)
        RICE_CASE(7)
        RICE_CASE(8)
        RICE_CASE(9)
        RICE_CASE(10)
        RICE_CASE(11)
        RICE_CASE(12)
    default:
        return rice(reader, s, count, parameter, predictor, predictor->order);
    }
#undef RICE_CASE
}

int decode_residual(Reader *r, int32_t *s, size_t block, const Predictor *predictor)
{
    unsigned method = take(r, 2), partition_order = take(r, 4);
    unsigned parameter_bits = 4 + method, escape = (1u << parameter_bits) - 1;
    size_t partition = block >> partition_order, done = predictor->order;
    if (method > 1 || partition << partition_order != block || partition < done)
        return 0;
    for (size_t end = partition; end <= block; end += partition) {
        unsigned parameter = take(r, parameter_bits), width = parameter == escape ? take(r, 5) : 0;
        if (parameter <= QUICK_PARAMETER && parameter != escape) {
            if (!decode_rice(r, s + done, end - done, parameter, predictor))
                return 0;
            done = end;
        }
        for (; done < end; done++) {
            int64_t code = parameter == escape ? (int64_t)take_signed(r, width) : take_long_rice(r, parameter);
            if (parameter != escape && code < 0)
                return 0;
            uint32_t value = (uint32_t)(parameter == escape ? (int32_t)code : unfold((uint32_t)code));
            if (predictor->order)
                value += (uint32_t)predicted(s + done, predictor->coefficients, predictor->order, predictor->shift,
                                             s[done - 1]);
            s[done] = (int32_t)value;
        }
        if (overrun(r))
            return 0;
    }
    return 1;
}

void choose_flac(int portable)
{
#ifdef X86_DISPATCH
    __builtin_cpu_init();
    has_vectors = !portable && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi") &&
                  __builtin_cpu_supports("bmi2");
#else
    (void)portable;
#endif
}
