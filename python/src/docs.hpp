// SPDX-License-Identifier: Apache-2.0
// The docstrings of the module: shapes, element types, units, ownership, errors.
#pragma once

namespace steady::python::docs {

inline constexpr const char* kEngine =
    R"(What is fixed for the life of an engine: heads, widths, page sizes, the device.

heads          query heads, 1 to MAX_HEADS
window         PoolShape of the sliding window, or None
compressed     PoolShape of the compressed pool; or a sequence with one for each kind of layer, None
               for a kind that has no such pool
queries        query tokens a request, 1 to MAX_QUERIES
max_batch      requests of a step at most, 1 to MAX_BATCH
softmax_scale  factor of the scores; by default 512^-0.5
backend        'auto', 'cpu', 'oracle' or 'cuda', as far as the build has them; see backends()
device         number of the device, of 'cuda'
threads        of a CPU backend; 0: one for each core it may use
checked        count bad lengths and slots for report()

An engine never changes and may be used from several threads. Whatever was made with it keeps it
alive. Tensors are those of any library that shares memory by DLPack or the buffer protocol: NumPy
for the CPU, torch, CuPy or JAX for CUDA. Nothing is ever copied. bfloat16 may be given as uint16
with the same bits, since NumPy has no bfloat16.

Raises InvalidArgument for a shape that no backend takes, and Error where the backend can't run
here.)";

inline constexpr const char* kPlan =
    R"(Reads the lengths of the step and writes the work plan of every kind into the workspace: once a
step, before its layers, on the same stream, and so in the same graph.

stream  a Stream, a CUDA stream's address as an int, or None for the default stream

Neither allocates nor waits for the device. On CUDA the call only launches: keep workspace and step
until the stream has passed it. Raises InvalidArgument for objects of another engine, and Error where
the launch fails.)";

inline constexpr const char* kDecode =
    R"(Computes one layer with the plan in the workspace. The lengths are the planned ones, whatever has
become of the step's arrays since; the batch must be the planned one.

On a CPU the answer is there when the call returns, and other Python threads run meanwhile. On CUDA
the call only launches: it neither allocates nor waits, so keep workspace, step and layer until the
stream has passed it. Raises InvalidArgument for objects of another engine or a layer with too little
room, and Error with status 'STEADY_NOT_PLANNED' where a CPU backend finds no plan, or where the launch
fails.)";

inline constexpr const char* kCapture =
    R"(Calls record(), in which plan and decode on `stream` are recorded and not run, and returns the
Graph. The graph keeps alive all that was recorded and reads, at each replay, what the tensors hold
by then. To capture on a stream of torch's, use torch.cuda.graph instead.

Raises InvalidArgument for a stream of another engine or one that is capturing already, Error where
the capture fails, and whatever record() raises, after which the stream can capture again.)";

inline constexpr const char* kReport =
    R"(What a checked engine met since the last plan in this workspace: a dict with 'negative_length',
'long_length' and 'stray_slot', each a dict of 'count' and, of the first one, 'layer', 'kind', 'scope'
(0 window, 1 compressed), 'request', 'query', 'position' and 'value', -1 where it has no meaning.
Waits for the stream. Raises InvalidArgument if the engine is not checked.)";

inline constexpr const char* kWorkspace =
    R"(Scratch for one stream of steps: all kinds, layers and graphs in turn.

memory  a writable contiguous tensor of engine.workspace_bytes bytes or more on the engine's device,
        256-byte aligned; None: the library's own

The workspace keeps `memory` alive, but doesn't wait for the device when it goes: keep it until every
stream that it was used on has passed the last use. The library's own memory waits for the device when
it is freed. Raises InvalidArgument for memory elsewhere or not contiguous, and plan and decode raise it
for too few bytes or a wrong alignment; Error where the device has no memory left.)";

inline constexpr const char* kStream =
    R"(A stream of the engine's device. On a CPU calls run at once; a stream there serves to capture.

Allocators such as torch's don't know this stream: what runs on it must be kept until it has run, by
wait() for one. Raises Error where the device gives no stream.)";

inline constexpr const char* kWait =
    R"(Waits until the device has done all of the stream's work; other Python threads run meanwhile.
Raises Error where the device failed.)";

inline constexpr const char* kStep =
    R"(One decode iteration of all layers.

batch               requests, 1 to max_batch
window_lengths      int32 [batch], or [batch, queries] with a length for each query; how many leading
                    slots of a row count. None: all. Below 0 means 0, above the width the width
compressed_lengths  a sequence with the same for each kind, or None

The arrays may be longer than the batch. They are read by plan, at every call and replay anew. The step
keeps them alive as long as it exists, and no longer: on CUDA keep it until the stream has passed the
last plan, unless that is the stream their allocator knows them on, as torch's current stream is.

Raises InvalidArgument for arrays of another type, shape or device, and too many entries; a batch
outside of its range is refused by plan.)";

inline constexpr const char* kLayer =
    R"(One layer's tensors, checked once.

q           bfloat16 [batch, queries, heads, 512]
out         bfloat16 [batch, queries, heads, 512], written; must not overlap any input
window      Pool or (pages, slots); None where the engine has no window
compressed  Pool or (pages, slots) of this kind's compressed pool
kind        which of the engine's kinds
lse         float32 [batch, queries, heads], written: the natural logarithm of the sum of e^score,
            without the sink; -inf for a row without tokens, +inf if empty_lse_is_positive. None: not
            asked for
sink        float32 [heads], a logit that joins the sum and owns no value; None: none

pages  [pages, bytes] or [pages, page_tokens, ...] of 1-byte elements, or of bfloat16 where the pool is
       'bf16'. Pages may lie further apart than they are long
slots  int32 [batch, queries, max_tokens], page * page_tokens + token; a slot outside the pool, such
       as -1, is skipped

Where the engine has one query a request, the dimension of the queries may be left out. Only the last
dimension of a tensor must be contiguous, and the rows of slots must lie at one stride. The batch may
be larger than that of a step. decode reads the tensors anew each time.

The layer keeps its tensors alive as long as it exists, and no longer. On CUDA a decode returns before
it has run: keep the layer until the stream has passed the last one, as torch's allocator, for one,
would give the memory to others. Only on the stream that the allocator knows the tensors on, as torch's
current stream is, may it go at once.

Raises InvalidArgument for tensors of another type, shape, device or layout, and where a pool is given
that the engine does not have, or not given though it has it.)";

inline constexpr const char* kGraph =
    R"(A step that was captured; see Engine.capture. It keeps alive what was recorded as long as it
exists, and no longer: keep it until the stream has passed the last replay.)";
inline constexpr const char* kReplay =
    R"(Runs what was captured, on `stream`, with what the tensors hold when it runs.

stream  a Stream, a CUDA stream's address as an int, or None for the default stream

Allocates nothing. On CUDA the call only launches: keep the graph until the stream has passed it. Raises
InvalidArgument for a stream of another engine or one that is capturing, and Error where the replay
fails, with status 'STEADY_NOT_PLANNED' where a CPU backend finds no plan.)";

inline constexpr const char* kBackends =
    "The backends of this build, best first: dicts of 'name', 'usable', 'chosen' (what 'auto' "
    "takes) "
    "and 'detail'.";

inline constexpr const char* kPackToken =
    R"(Writes one token into a page, as a cache of 'fp8' or 'bf16' keeps it.

values       float32 [512], contiguous, in host memory
page         page_bytes(page_tokens, format) bytes or more, contiguous, writable, in host memory
page_tokens  tokens of the page
token        which of them, 0 to page_tokens - 1
format       'fp8' or 'bf16'

Raises InvalidArgument for any other.)";
inline constexpr const char* kUnpackToken =
    R"(Reads one token of a page into float32 values, as the attention sees it; the inverse of pack_token,
with `values` writable. Raises InvalidArgument as that does.)";
inline constexpr const char* kPageBytes =
    R"(Fewest bytes from one page of 'fp8' or 'bf16' tokens to the next. Raises InvalidArgument for
another format.)";

inline constexpr const char* kPlanTensors =
    "Engine.plan of tensors that are good for this call. For steady.torch.";
inline constexpr const char* kDecodeTensors =
    "Engine.decode of tensors that are good for this call, with the batch of q. For steady.torch.";
inline constexpr const char* kEngineCache =
    "Engines by the shapes that they are for, made by `make`; at most `capacity` of them are kept. "
    "For steady.torch.";
inline constexpr const char* kAttendTensors =
    "Plan and decode of tensors that are good for this call, with scratch of its own. For "
    "steady.torch.";

}  // namespace steady::python::docs
