// SPDX-License-Identifier: Apache-2.0
// A status and a sentence in, the exception that Python sees out.
#include "fail.hpp"

namespace nb = nanobind;

namespace steady::python {
namespace {

PyObject *error_type, *argument_error_type;  // live as long as the interpreter

constexpr const char* kErrorDoc =
    "A call that failed. str(error) says what was wrong and what is allowed; error.status is the "
    "name of the library's status, such as 'STEADY_NOT_PLANNED'.";
constexpr const char* kArgumentErrorDoc =
    "An argument that the library or this package does not take. It is a ValueError too.";

}  // namespace

void add_exceptions(nb::module_& module) {
  error_type = PyErr_NewExceptionWithDoc("steady.Error", kErrorDoc, PyExc_RuntimeError, nullptr);
  if (error_type == nullptr) throw nb::python_error();
  const nb::tuple bases = nb::make_tuple(nb::handle(error_type), nb::handle(PyExc_ValueError));
  argument_error_type =
      PyErr_NewExceptionWithDoc("steady.InvalidArgument", kArgumentErrorDoc, bases.ptr(), nullptr);
  if (argument_error_type == nullptr) throw nb::python_error();
  module.attr("Error") = nb::borrow(error_type);
  module.attr("InvalidArgument") = nb::borrow(argument_error_type);
}

void fail(steady_status status, const std::string& sentence) {
  PyObject* type = status == STEADY_INVALID_ARGUMENT ? argument_error_type : error_type;
  nb::object error = nb::borrow(type)(sentence.c_str());
  error.attr("status") = steady_status_name(status);
  PyErr_SetObject(type, error.ptr());
  throw nb::python_error();
}

}  // namespace steady::python
