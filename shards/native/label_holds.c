/* Whether a label is what the guarantee of its codec says, from what a reader finds in it. */
#include "label_fit.h"

ALWAYS_INLINE int holds(const LabelFit *fit, const float *probabilities, const uint16_t *codes, const double *given,
                        const double *loss, double share, double floor)
{
    const double one = one_of(fit->frames);
    const int levels = (int)fit->levels, keeps_losses = floor < INFINITY;
    int16_t lowest[AT_ONCE], highest[AT_ONCE];
    float q[AT_ONCE];
    double losses[AT_ONCE];
    int outside = 0;
    int32_t bins[AT_ONCE];
    if (!are_logits(fit->logits, fit->rows * fit->frames))
        return -1;
    for (size_t row = 0; row < fit->rows; row++) {
        double change = -given[row], allowed = floor * one * (double)fit->frames;
        for (size_t done = 0; done < fit->frames; done += AT_ONCE) {
            size_t count = fit->frames - done < AT_ONCE ? fit->frames - done : AT_ONCE, at = row * fit->frames + done;
            const float *logits = fit->logits + at;
            for (size_t i = 0; i < count; i++)
                bins[i] = bin_of(logits[i]);
            for (size_t i = 0; i < count; i++) {
                lowest[i] = fit->reaches[2 * bins[i]];
                highest[i] = fit->reaches[2 * bins[i] + 1];
            }
            for (size_t i = 0; i < count; i++) {
                int quiet = lowest[i] < fit->quiet, code = codes[at + i];
                outside |= (code < lowest[i] - quiet) | (code > highest[i] + quiet) | (code >= levels);
            }
            if (outside)
                return 0;
            if (keeps_losses) {
                for (size_t i = 0; i < count; i++)
                    q[i] = probabilities[codes[at + i]];
                for (size_t i = 0; i < count; i++)
                    losses[i] = whole((double)q[i] * whole((double)logits[i] * one));
                change += sum(losses, count);
            }
        }
        allowed = share * loss[row] > allowed ? share * loss[row] : allowed;
        if (keeps_losses && !(fabs(change) <= allowed))
            return 0;
    }
    return 1;
}

#ifdef X86_DISPATCH
static int has_avx2;

__attribute__((target("avx2"))) static int holds_by_vectors(const LabelFit *fit, const float *probabilities,
                                                            const uint16_t *codes, const double *given,
                                                            const double *loss, double share, double floor)
{
    return holds(fit, probabilities, codes, given, loss, share, floor);
}
#endif

int label_holds(const LabelFit *fit, const float *probabilities, const uint16_t *codes, const double *given,
                const double *loss, double share, double floor)
{
#ifdef X86_DISPATCH
    if (has_avx2)
        return holds_by_vectors(fit, probabilities, codes, given, loss, share, floor);
#endif
    return holds(fit, probabilities, codes, given, loss, share, floor);
}

void choose_label_holds(int has_vectors)
{
#ifdef X86_DISPATCH
    has_avx2 = has_vectors;
#else
    (void)has_vectors;
#endif
}
