/* Functions of shards._native that are not in module.c. */
#ifndef SED_DISTILL_MODULE_H
#define SED_DISTILL_MODULE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

PyObject *py_fit_levels(PyObject *module, PyObject *args);
PyObject *py_holds(PyObject *module, PyObject *args);
PyObject *py_encode_runs(PyObject *module, PyObject *args);

#endif
