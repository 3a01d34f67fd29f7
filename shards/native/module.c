/* The Python side of shards._native: checks every buffer against what a kernel will do with it, then lets other threads
   run. Wrong arguments are the programmer's: ValueError. Wrong contents are told by the value that is returned. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <errno.h>
#include <unistd.h>

#include "kernels.h"
#include "module.h"

/* Python code of version N of this file's functions refuses another's: an old build beside newer sources. */
#define VERSION 4

static int get_pcm_out(PyObject *array, Py_ssize_t channels, Py_ssize_t samples, Py_buffer *view, PcmOut *out)
{
    if (PyObject_GetBuffer(array, view, PyBUF_WRITABLE | PyBUF_STRIDES | PyBUF_FORMAT))
        return 0;
    int is_float = view->format && !strcmp(view->format, "f"), is_int16 = view->format && !strcmp(view->format, "h");
    int last = view->ndim - 1;
    int fits = (is_float || is_int16) && samples >= 0 &&
               ((last == 0 && channels == 1) || (last == 1 && view->shape[0] == channels)) &&
               view->shape[last] >= samples && view->strides[last] == view->itemsize &&
               (uintptr_t)view->buf % (size_t)view->itemsize == 0 &&
               (last == 0 || view->strides[0] % view->itemsize == 0);
    if (!fits) {
        PyBuffer_Release(view);
        PyErr_SetString(PyExc_ValueError, "out is not float32 or int16 of [channels, samples], samples side by side");
        return 0;
    }
    out->memory = view->buf;
    out->channel_bytes = last == 0 ? 0 : view->strides[0];
    out->is_float = is_float;
    return 1;
}

/* 1: `out` can be used, and `release` must be called; 0: an exception is set. `rows` of the label, `columns` of each. */
typedef struct {
    LabelOut out;
    Py_buffer table, memory;
    int32_t *places;
} LabelArguments;

static void release_label_out(LabelArguments *arguments)
{
    PyMem_Free(arguments->places);
    PyBuffer_Release(&arguments->table);
    PyBuffer_Release(&arguments->memory);
}

static int place_rows(PyObject *chosen, Py_ssize_t rows, LabelArguments *arguments, Py_ssize_t *out_rows)
{
    Py_buffer view;
    *out_rows = rows;
    if (chosen == Py_None)
        return 1;
    if (PyObject_GetBuffer(chosen, &view, PyBUF_ND | PyBUF_FORMAT))
        return 0;
    int fits = rows < INT32_MAX && view.ndim == 1 && view.itemsize == 8 && view.format &&
               (!strcmp(view.format, "l") || !strcmp(view.format, "q")) && (uintptr_t)view.buf % 8 == 0;
    const int64_t *sources = view.buf;
    int32_t *places = fits ? PyMem_Malloc((size_t)(rows ? rows : 1) * sizeof *places) : NULL;
    arguments->out.places = arguments->places = places;
    if (places) {
        *out_rows = view.shape[0];
        fits = *out_rows < INT32_MAX;
        for (Py_ssize_t row = 0; row < rows; row++)
            places[row] = -1;
        for (Py_ssize_t place = 0; fits && place < *out_rows; place++) {
            int64_t row = sources[place];
            if (row == -1)
                continue;
            fits = row >= 0 && row < rows && places[row] < 0;
            if (fits)
                places[row] = (int32_t)place;
        }
    }
    PyBuffer_Release(&view);
    if (!fits)
        PyErr_SetString(PyExc_ValueError, "rows are not int64 of rows of the label, each once at most, or -1");
    else if (!places)
        PyErr_NoMemory();
    return fits && places;
}

static int get_label_out(PyObject *table, PyObject *memory, PyObject *chosen, Py_ssize_t rows, Py_ssize_t columns,
                         LabelArguments *arguments)
{
    memset(arguments, 0, sizeof *arguments);
    if (rows < 0 || columns < 1 || rows > PY_SSIZE_T_MAX / 8 / columns) {
        PyErr_SetString(PyExc_ValueError, "no label has that many values");
        return 0;
    }
    Py_ssize_t out_rows;
    if (PyObject_GetBuffer(table, &arguments->table, PyBUF_ND) ||
        PyObject_GetBuffer(memory, &arguments->memory, PyBUF_WRITABLE | PyBUF_ND) ||
        !place_rows(chosen, rows, arguments, &out_rows)) {
        release_label_out(arguments);
        return 0;
    }
    Py_ssize_t bytes = arguments->table.itemsize;
    if ((bytes != 2 && bytes != 4) || arguments->memory.itemsize != bytes ||
        out_rows > PY_SSIZE_T_MAX / 8 / columns || arguments->memory.len != out_rows * columns * bytes ||
        (uintptr_t)arguments->memory.buf % (size_t)bytes) {
        PyErr_SetString(PyExc_ValueError, "out is not an array of rows of values as wide as those of the table");
        release_label_out(arguments);
        return 0;
    }
    arguments->out.memory = arguments->memory.buf;
    arguments->out.table = arguments->table.buf;
    arguments->out.table_values = (size_t)(arguments->table.len / bytes);
    arguments->out.value_bytes = (size_t)bytes;
    return 1;
}

static PyObject *py_crc32c(PyObject *module, PyObject *args)
{
    Py_buffer content;
    uint32_t checksum;
    (void)module;
    if (!PyArg_ParseTuple(args, "y*", &content))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    checksum = crc32c(content.buf, (size_t)content.len);
    Py_END_ALLOW_THREADS
    PyBuffer_Release(&content);
    return PyLong_FromUnsignedLong(checksum);
}

static PyObject *py_read_crc32c(PyObject *module, PyObject *args)
{
    int fd, failed;
    long long offset;
    Py_buffer memory;
    (void)module;
    if (!PyArg_ParseTuple(args, "iLw*", &fd, &offset, &memory))
        return NULL;
    size_t done, wanted = (size_t)memory.len;
    uint32_t checksum;
    do {
        done = 0;
        failed = 0;
        checksum = 0;
        Py_BEGIN_ALLOW_THREADS
        while (done < wanted) {
            ssize_t got = pread(fd, (char *)memory.buf + done, wanted - done, (off_t)(offset + (long long)done));
            if (got < 0)
                failed = errno;
            if (got <= 0)
                break;
            done += (size_t)got;
        }
        if (done == wanted)
            checksum = crc32c(memory.buf, wanted);
        Py_END_ALLOW_THREADS
    } while (failed == EINTR && !PyErr_CheckSignals());
    PyBuffer_Release(&memory);
    if (PyErr_Occurred())
        return NULL;
    if (failed) {
        errno = failed;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    return Py_BuildValue("nk", (Py_ssize_t)done, (unsigned long)checksum);
}

static PyObject *py_flac(PyObject *module, PyObject *args)
{
    Py_buffer content, view;
    Py_ssize_t sample_rate, channels, samples;
    PyObject *array;
    PcmOut out;
    int decoded = 0;
    (void)module;
    if (!PyArg_ParseTuple(args, "y*nnnO", &content, &sample_rate, &channels, &samples, &array))
        return NULL;
    if (!get_pcm_out(array, channels, samples, &view, &out)) {
        PyBuffer_Release(&content);
        return NULL;
    }
    if (sample_rate >= 0 && sample_rate < INT32_MAX && channels > 0 && channels < 256) {
        Py_BEGIN_ALLOW_THREADS
        decoded = decode_flac(content.buf, (size_t)content.len, (uint32_t)sample_rate, (unsigned)channels,
                              (size_t)samples, &out);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&view);
    PyBuffer_Release(&content);
    return PyBool_FromLong(decoded);
}

static PyObject *py_running_sum(PyObject *module, PyObject *args)
{
    Py_buffer content, view;
    Py_ssize_t channels, samples;
    PyObject *array;
    PcmOut out;
    (void)module;
    if (!PyArg_ParseTuple(args, "y*nnO", &content, &channels, &samples, &array))
        return NULL;
    if (!get_pcm_out(array, channels, samples, &view, &out)) {
        PyBuffer_Release(&content);
        return NULL;
    }
    int fits = channels > 0 && channels < 256 && samples <= content.len && content.len == 2 * channels * samples &&
               (uintptr_t)content.buf % 2 == 0;
    if (fits) {
        Py_BEGIN_ALLOW_THREADS
        running_sum(content.buf, (unsigned)channels, (size_t)samples, &out);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&view);
    PyBuffer_Release(&content);
    if (!fits)
        return PyErr_Format(PyExc_ValueError, "values are not %zd times %zd of 16 bits", channels, samples);
    Py_RETURN_NONE;
}

static PyObject *py_runs(PyObject *module, PyObject *args)
{
    Py_buffer tokens, side;
    Py_ssize_t stated, jumps, rows, frames;
    PyObject *table, *memory, *chosen;
    LabelArguments to;
    int wrong = 0;
    (void)module;
    if (!PyArg_ParseTuple(args, "y*y*nnnnOOO", &tokens, &side, &stated, &jumps, &rows, &frames, &table, &memory,
                          &chosen))
        return NULL;
    int fits = stated >= 0 && jumps >= 0 && stated <= side.len && jumps <= side.len && stated + 2 * jumps == side.len;
    if (!fits)
        PyErr_SetString(PyExc_ValueError, "the side stream has not the bytes for that many lengths and steps");
    else if ((fits = get_label_out(table, memory, chosen, rows, frames, &to))) {
        Py_BEGIN_ALLOW_THREADS
        wrong = decode_runs(tokens.buf, (size_t)tokens.len, side.buf, (size_t)stated, (size_t)jumps, (size_t)rows,
                            (size_t)frames, &to.out);
        Py_END_ALLOW_THREADS
        release_label_out(&to);
    }
    PyBuffer_Release(&tokens);
    PyBuffer_Release(&side);
    return fits ? PyLong_FromLong(wrong) : NULL;
}

static PyObject *py_float16(PyObject *module, PyObject *args)
{
    Py_buffer bits;
    Py_ssize_t rows, columns;
    PyObject *table, *memory, *chosen;
    LabelArguments to;
    int fits = 0, are_values = 0, are_probabilities;
    (void)module;
    if (!PyArg_ParseTuple(args, "y*nnOOOp", &bits, &rows, &columns, &table, &memory, &chosen, &are_probabilities))
        return NULL;
    if (get_label_out(table, memory, chosen, rows, columns, &to)) {
        to.out.are_probabilities = are_probabilities;
        fits = bits.len == 2 * rows * columns && to.out.table_values == 65536;
        if (fits) {
            Py_BEGIN_ALLOW_THREADS
            are_values = look_up_float16(bits.buf, (size_t)rows, (size_t)columns, &to.out);
            Py_END_ALLOW_THREADS
        } else {
            PyErr_SetString(PyExc_ValueError, "bits are not rows times columns of 16, or the table not for all of them");
        }
        release_label_out(&to);
    }
    PyBuffer_Release(&bits);
    return fits ? PyBool_FromLong(are_values) : NULL;
}

static PyObject *py_packed(PyObject *module, PyObject *args)
{
    Py_buffer high, low;
    Py_ssize_t rows, columns;
    PyObject *table, *memory, *chosen;
    LabelArguments to;
    int fits = 0, are_values = 0, are_probabilities;
    (void)module;
    if (!PyArg_ParseTuple(args, "y*y*nnOOOp", &high, &low, &rows, &columns, &table, &memory, &chosen,
                          &are_probabilities))
        return NULL;
    if (get_label_out(table, memory, chosen, rows, columns, &to)) {
        to.out.are_probabilities = are_probabilities;
        fits = high.len == rows * columns && low.len == high.len && to.out.table_values == 65536;
        if (fits) {
            Py_BEGIN_ALLOW_THREADS
            are_values = decode_packed(high.buf, low.buf, (size_t)rows, (size_t)columns, &to.out);
            Py_END_ALLOW_THREADS
        } else {
            PyErr_SetString(PyExc_ValueError, "planes are not rows times columns, or the table not for all of 16 bits");
        }
        release_label_out(&to);
    }
    PyBuffer_Release(&high);
    PyBuffer_Release(&low);
    return fits ? PyBool_FromLong(are_values) : NULL;
}

/* For tests, which run on one processor. */
static PyObject *py_portable(PyObject *module, PyObject *wanted)
{
    (void)module;
    int portable = PyObject_IsTrue(wanted);
    if (portable < 0)
        return NULL;
    choose_crc32c(portable);
    choose_flac(portable);
    choose_label_fit(portable);
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"portable", py_portable, METH_O, NULL},
    {"crc32c", py_crc32c, METH_VARARGS, NULL},
    {"read_crc32c", py_read_crc32c, METH_VARARGS, NULL},
    {"flac", py_flac, METH_VARARGS, NULL},
    {"running_sum", py_running_sum, METH_VARARGS, NULL},
    {"runs", py_runs, METH_VARARGS, NULL},
    {"float16", py_float16, METH_VARARGS, NULL},
    {"packed", py_packed, METH_VARARGS, NULL},
    {"fit_levels", py_fit_levels, METH_VARARGS, NULL},
    {"holds", py_holds, METH_VARARGS, NULL},
    {"encode_runs", py_encode_runs, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static int prepare(PyObject *module)
{
    static int is_prepared;
    if (!is_prepared) { /* tables that other threads may be reading when it is imported again */
        prepare_crc32c();
        choose_crc32c(0);
        prepare_flac_crc();
        choose_flac(0);
        choose_label_fit(0);
        is_prepared = 1;
    }
    return PyModule_AddIntConstant(module, "VERSION", VERSION);
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, prepare},
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "shards._native", "Compiled kernels behind shards.codecs.", 0, methods, slots, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__native(void)
{
    return PyModuleDef_Init(&definition);
}
