/* The Python side of the label encoder, as module.c is of the rest. */
#include "module.h"

#include "kernels.h"

/* The arguments of both functions of a fit, which begin alike. */
typedef struct {
    LabelFit fit;
    Py_buffer logits, reaches;
} FitArguments;

static int is_matrix(const Py_buffer *view, Py_ssize_t rows, Py_ssize_t columns, Py_ssize_t item_bytes)
{
    return view->itemsize == item_bytes && view->len == rows * columns * item_bytes &&
           (uintptr_t)view->buf % (size_t)item_bytes == 0;
}

static int get_fit(PyObject *logits, PyObject *reaches, Py_ssize_t rows, Py_ssize_t frames, FitArguments *arguments)
{
    memset(arguments, 0, sizeof *arguments);
    if (rows < 1 || frames < 1 || rows > (1 << 22) / frames) {
        PyErr_SetString(PyExc_ValueError, "no label that is runs has that many values");
        return 0;
    }
    if (PyObject_GetBuffer(logits, &arguments->logits, PyBUF_ND) ||
        PyObject_GetBuffer(reaches, &arguments->reaches, PyBUF_ND)) {
        PyBuffer_Release(&arguments->logits);
        return 0;
    }
    LabelFit *fit = &arguments->fit;
    fit->logits = arguments->logits.buf;
    fit->reaches = arguments->reaches.buf;
    fit->rows = (size_t)rows;
    fit->frames = (size_t)frames;
    return 1;
}

static void release_fit(FitArguments *arguments)
{
    PyBuffer_Release(&arguments->logits);
    PyBuffer_Release(&arguments->reaches);
}

PyObject *py_fit_levels(PyObject *module, PyObject *args)
{
    PyObject *logits, *reaches;
    Py_ssize_t rows, frames;
    Py_buffer kept, sigmoid, levels, given, loss;
    FitArguments from;
    int keeps, quiet, result = 0;
    (void)module;
    if (!PyArg_ParseTuple(args, "OnnOy*y*iiw*w*w*", &logits, &rows, &frames, &reaches, &kept, &sigmoid, &keeps, &quiet,
                          &levels, &given, &loss))
        return NULL;
    int has_fit = get_fit(logits, reaches, rows, frames, &from);
    if (has_fit) {
        from.fit.kept = kept.buf;
        from.fit.sigmoid = sigmoid.buf;
        from.fit.levels = (size_t)(kept.len / 8);
        from.fit.keeps = keeps;
        from.fit.quiet = quiet;
        int fits = is_matrix(&from.logits, rows, frames, 4) && is_matrix(&from.reaches, LABEL_BINS, 2, 2) &&
                   keeps > 0 && kept.len % 8 == 0 && kept.len / 8 <= INT16_MAX && sigmoid.len == 16 * LABEL_PLACES &&
                   levels.len == 2 * rows * frames && given.len == 8 * rows && loss.len == given.len &&
                   !(((uintptr_t)kept.buf | (uintptr_t)sigmoid.buf | (uintptr_t)given.buf | (uintptr_t)loss.buf) % 8) &&
                   (uintptr_t)levels.buf % 2 == 0;
        if (fits) {
            Py_BEGIN_ALLOW_THREADS
            result = fit_label(&from.fit, levels.buf, given.buf, loss.buf);
            Py_END_ALLOW_THREADS
        }
        release_fit(&from);
    }
    PyBuffer_Release(&kept);
    PyBuffer_Release(&sigmoid);
    PyBuffer_Release(&levels);
    PyBuffer_Release(&given);
    PyBuffer_Release(&loss);
    if (!has_fit)
        return NULL;
    if (result < 0)
        return PyErr_NoMemory();
    if (!result)
        return PyErr_Format(PyExc_ValueError, "logits are not %zd times %zd within +-24, or tables not theirs", rows,
                            frames);
    Py_RETURN_NONE;
}

PyObject *py_holds(PyObject *module, PyObject *args)
{
    PyObject *logits, *reaches;
    Py_ssize_t rows, frames;
    Py_buffer probabilities, codes, given, loss;
    FitArguments from;
    double share, floor;
    int quiet, result = -1;
    (void)module;
    if (!PyArg_ParseTuple(args, "OnnOy*iy*y*y*dd", &logits, &rows, &frames, &reaches, &probabilities, &quiet, &codes,
                          &given, &loss, &share, &floor))
        return NULL;
    int has_fit = get_fit(logits, reaches, rows, frames, &from);
    if (has_fit) {
        from.fit.levels = (size_t)(probabilities.len / 4);
        from.fit.quiet = quiet;
        int fits = is_matrix(&from.logits, rows, frames, 4) && is_matrix(&from.reaches, LABEL_BINS, 2, 2) &&
                   probabilities.len >= 4 && probabilities.len / 4 <= INT16_MAX && codes.len == 2 * rows * frames &&
                   given.len == 8 * rows && loss.len == given.len && (uintptr_t)probabilities.buf % 4 == 0 &&
                   (uintptr_t)codes.buf % 2 == 0 && !(((uintptr_t)given.buf | (uintptr_t)loss.buf) % 8);
        if (fits) {
            Py_BEGIN_ALLOW_THREADS
            result = label_holds(&from.fit, probabilities.buf, codes.buf, given.buf, loss.buf, share, floor);
            Py_END_ALLOW_THREADS
        }
        release_fit(&from);
    }
    PyBuffer_Release(&probabilities);
    PyBuffer_Release(&codes);
    PyBuffer_Release(&given);
    PyBuffer_Release(&loss);
    if (!has_fit)
        return NULL;
    if (result < 0)
        return PyErr_Format(PyExc_ValueError, "logits are not %zd times %zd within +-24, or others not theirs", rows,
                            frames);
    return PyBool_FromLong(result);
}

PyObject *py_encode_runs(PyObject *module, PyObject *args)
{
    Py_ssize_t rows, frames;
    Py_buffer levels, tokens, side;
    RunCounts counts = {0, 0, 0};
    int result = 0;
    (void)module;
    if (!PyArg_ParseTuple(args, "y*nnw*w*", &levels, &rows, &frames, &tokens, &side))
        return NULL;
    int fits = rows >= 1 && frames >= 1 && rows <= (1 << 22) / frames && levels.len == 2 * rows * frames &&
               (uintptr_t)levels.buf % 2 == 0 && tokens.len >= rows * frames && side.len >= 3 * rows * frames;
    if (fits) {
        Py_BEGIN_ALLOW_THREADS
        result = encode_runs(levels.buf, (size_t)rows, (size_t)frames, tokens.buf, side.buf, &counts);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&levels);
    PyBuffer_Release(&tokens);
    PyBuffer_Release(&side);
    if (!result)
        return PyErr_Format(PyExc_ValueError, "levels are not %zd times %zd up to 32,767, or there is no room for runs",
                            rows, frames);
    return Py_BuildValue("nnn", (Py_ssize_t)counts.runs, (Py_ssize_t)counts.stated, (Py_ssize_t)counts.jumps);
}
