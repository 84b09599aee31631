// SPDX-License-Identifier: Apache-2.0
// A page and a token's values in host memory in, the one written as the other out.
#include "calls.hpp"
#include "fail.hpp"
#include "steady/device.h"

namespace nb = nanobind;

namespace steady::python {

steady_cache_format format_named(const std::string& name) {
  if (name == "fp8") return STEADY_CACHE_FP8;
  if (name == "bf16") return STEADY_CACHE_BF16;
  refuse("format is '", name, "'; allowed is 'fp8' and 'bf16'");
}

namespace {

/// 512 float32 on the host.
float* token_values(const Tensor& values) {
  values.expect_device(-1);
  values.expect_type({kFloat32}, "float32");
  if (values.dimensions() != 1 || values.extent(0) != STEADY_HEAD_DIM || !values.is_packed_from(0))
    refuse(values.describe(), "; it must be contiguous, [512]");
  return values.data<float>();
}

void* token_page(const Tensor& page, steady_cache_format format, int page_tokens) {
  page.expect_device(-1);
  const int64_t bytes = page.elements_from(0) * page.element_bits() / 8;
  if (!page.is_packed_from(0) || bytes < steady_page_bytes(format, page_tokens))
    refuse(page.describe(), "; a page of ", page_tokens, " tokens must be contiguous, ",
           steady_page_bytes(format, page_tokens), " bytes or more");
  return page.data<void>();
}

}  // namespace

void pack_token(nb::handle values, nb::handle page, int page_tokens, int token,
                const std::string& format) {
  const steady_cache_format named = format_named(format);
  const Tensor from("values", values, Access::kRead, false);
  const Tensor to("page", page, Access::kWrite, false);
  if (!from || !to) refuse("values and page must be tensors, not None");
  check(steady_pack_token(named, token_values(from), token_page(to, named, page_tokens),
                          page_tokens, token));
}

void unpack_token(nb::handle page, int page_tokens, int token, nb::handle values,
                  const std::string& format) {
  const steady_cache_format named = format_named(format);
  const Tensor from("page", page, Access::kRead, false);
  const Tensor to("values", values, Access::kWrite, false);
  if (!from || !to) refuse("page and values must be tensors, not None");
  check(steady_unpack_token(named, token_page(from, named, page_tokens), page_tokens, token,
                            token_values(to)));
}

}  // namespace steady::python
