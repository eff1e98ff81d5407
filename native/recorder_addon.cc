// What the addon exports of the recorder; src/native/recorder-binding.ts gives it types and checks arguments.
#include "recorder_addon.h"

#include <unistd.h>
#include <uv.h>

#include <mutex>

#include "file_lock.h"

namespace couplet {

std::function<void(const RecorderEvent&)> onRecorderEvent;

namespace {

// Guards against waking an event loop that is not there yet, or not any more.
std::mutex wakeUpMutex;
bool canWakeUp = false;
uv_async_t wakeUp;
Napi::FunctionReference listener;
Napi::AsyncContext* listenerContext = nullptr;

uint32_t idOf(const Napi::CallbackInfo& info, size_t at) { return info[at].As<Napi::Number>().Uint32Value(); }
double numberOf(const Napi::CallbackInfo& info, size_t at) { return info[at].As<Napi::Number>().DoubleValue(); }
bool boolOf(const Napi::CallbackInfo& info, size_t at) { return info[at].As<Napi::Boolean>().Value(); }

void dispatch() {
  processRecorder().dispatch([](const RecorderEvent& event) {
    if (onRecorderEvent) onRecorderEvent(event);
    if (listener.IsEmpty()) return;
    const Napi::Env env = listener.Env();
    const Napi::HandleScope scope(env);
    listener.MakeCallback(env.Global(),
                          {Napi::Number::New(env, static_cast<int>(event.kind)), Napi::Number::New(env, event.handle),
                           Napi::Number::New(env, event.error),
                           Napi::Number::New(env, static_cast<double>(event.bytes)),
                           Napi::Boolean::New(env, event.complete), Napi::String::New(env, event.file)},
                          *listenerContext);
  });
}

// Gives the bytes of a string, ArrayBuffer or typed array to `take`; a string's are in a buffer that is used again.
template <class Take>
Napi::Value withBytes(const Napi::CallbackInfo& info, size_t at, Take take) {
  const napi_env env = info.Env();
  const Napi::Value value = info[at];
  if (value.IsArrayBuffer()) {
    auto buffer = value.As<Napi::ArrayBuffer>();
    return Napi::Boolean::New(env, take(static_cast<const char*>(buffer.Data()), buffer.ByteLength()));
  }
  if (value.IsTypedArray()) {
    void* data = nullptr;
    size_t length = 0;
    napi_get_typedarray_info(env, value, nullptr, &length, &data, nullptr, nullptr);  // bytes, as it is a Uint8Array
    return Napi::Boolean::New(env, take(static_cast<const char*>(data), length));
  }
  static std::string text(4096, '\0');
  constexpr size_t keptBytes = 1 << 20;
  size_t length = 0;
  napi_get_value_string_utf8(env, value, text.data(), text.size(), &length);
  // A full buffer may have cut the text: V8 stops before a character that does not fit, and leaves room for a zero.
  if (length + 4 >= text.size()) {
    napi_get_value_string_utf8(env, value, nullptr, 0, &length);
    text.resize(length + 5);
    napi_get_value_string_utf8(env, value, text.data(), text.size(), &length);
  }
  const bool taken = take(text.data(), length);
  if (text.size() > keptBytes) text = std::string(4096, '\0');
  return Napi::Boolean::New(env, taken);
}

// recorderStart(onEvent(kind, handle, error, bytes, complete, file)): once for the process, on its main thread; throws
// elsewhere, as the recorder belongs to one event loop, and a worker thread's goes before the process does
void Start(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  if (getpid() != gettid() || listenerContext != nullptr) {
    Napi::Error::New(env, "the recorder is the main thread's, and started once").ThrowAsJavaScriptException();
    return;
  }
  listener = Napi::Persistent(info[0].As<Napi::Function>());
  listenerContext = new Napi::AsyncContext(env, "couplet:recorder");
  listener.SuppressDestruct();
  uv_loop_t* loop = nullptr;
  napi_get_uv_event_loop(env, &loop);
  uv_async_init(loop, &wakeUp, [](uv_async_t*) { dispatch(); });
  uv_unref(reinterpret_cast<uv_handle_t*>(&wakeUp));
  const std::lock_guard lock(wakeUpMutex);
  canWakeUp = true;
}

// recorderStop(timeoutMs): boolean. For the process's end: all recordings are ended, all events handed out; no more of
// them come then, as Node.js runs the event loop once more when it cannot run JavaScript any longer.
Napi::Value Stop(const Napi::CallbackInfo& info) {
  const bool done = processRecorder().flushAll(true, idOf(info, 0));
  dispatch();
  listener.Reset();
  const std::lock_guard lock(wakeUpMutex);
  canWakeUp = false;
  return Napi::Boolean::New(info.Env(), done);
}

// recorderConfigure(threads, flushBytes, flushMs, fsyncMs, maxQueueBytes, lowQueueBytes, maxFileQueueBytes)
void Configure(const Napi::CallbackInfo& info) {
  RecorderOptions options;
  options.threads = idOf(info, 0);
  options.flushBytes = static_cast<uint64_t>(numberOf(info, 1));
  options.flushMs = idOf(info, 2);
  options.fsyncMs = idOf(info, 3);
  options.maxQueueBytes = static_cast<uint64_t>(numberOf(info, 4));
  options.lowQueueBytes = static_cast<uint64_t>(numberOf(info, 5));
  options.maxFileQueueBytes = static_cast<uint64_t>(numberOf(info, 6));
  processRecorder().configure(options);
}

// recorderOpen(folder, name, strict, sidecar, lines): handle; a negative errno where the name is none
Napi::Value Open(const Napi::CallbackInfo& info) {
  int error = 0;
  const Recording* recording =
      processRecorder().open(info[0].As<Napi::String>().Utf8Value(), info[1].As<Napi::String>().Utf8Value(),
                             {.strict = boolOf(info, 2), .sidecar = boolOf(info, 3), .lines = boolOf(info, 4)}, error);
  return Napi::Number::New(info.Env(), recording == nullptr ? -error : static_cast<double>(recording->handle()));
}

// recorderStartNs(handle): bigint
Napi::Value StartNs(const Napi::CallbackInfo& info) {
  const Recording* recording = processRecorder().find(idOf(info, 0));
  return Napi::BigInt::New(info.Env(), recording == nullptr ? int64_t{0} : recording->startNs());
}

// recorderWriteHeader(handle, json), recorderAppend(handle, flags, data): false where the recording has ended
Napi::Value WriteHeader(const Napi::CallbackInfo& info) {
  Recording* recording = processRecorder().find(idOf(info, 0));
  if (recording == nullptr) return Napi::Boolean::New(info.Env(), false);
  return withBytes(info, 1, [&](const char* data, size_t length) { return recording->writeHeader(data, length); });
}
Napi::Value Append(const Napi::CallbackInfo& info) {
  Recording* recording = processRecorder().find(idOf(info, 0));
  if (recording == nullptr) return Napi::Boolean::New(info.Env(), false);
  const auto flags = static_cast<uint16_t>(idOf(info, 1));
  return withBytes(info, 2, [&](const char* data, size_t length) { return recording->append(flags, data, length); });
}

// recorderHoldsBack(handle): boolean
Napi::Value HoldsBack(const Napi::CallbackInfo& info) {
  const Recording* recording = processRecorder().find(idOf(info, 0));
  return Napi::Boolean::New(info.Env(), recording != nullptr && recording->holdsBack());
}

// recorderSync(handle), recorderClose(handle): nothing where the handle is closed
void Sync(const Napi::CallbackInfo& info) {
  Recording* recording = processRecorder().find(idOf(info, 0));
  if (recording != nullptr) processRecorder().sync(recording);
}
void Close(const Napi::CallbackInfo& info) {
  Recording* recording = processRecorder().find(idOf(info, 0));
  if (recording != nullptr) processRecorder().close(recording);
}

// recorderFlushAll(finish, timeoutMs): boolean
Napi::Value FlushAll(const Napi::CallbackInfo& info) {
  return Napi::Boolean::New(info.Env(), processRecorder().flushAll(boolOf(info, 0), idOf(info, 1)));
}

Napi::Array figuresOf(Napi::Env env, const LatencyHistogram& histogram) {
  Napi::Array all = Napi::Array::New(env, histogram.buckets.size() + 1);
  uint32_t at = 0;
  for (const auto& bucket : histogram.buckets) all.Set(at++, static_cast<double>(bucket.load()));
  all.Set(at, static_cast<double>(histogram.sumUs.load()));
  return all;
}

// recorderStatistics(): [bytesWritten, blocks, queueBytes, assemblyBytes, openFiles, bounds in µs, write latency (a
// count for each bound, one for more, the sum in µs), sync latency, [errno, count, …]]
Napi::Value Statistics(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const Recorder::Statistics figures = processRecorder().statistics();
  Napi::Array bounds = Napi::Array::New(env, kLatencyBoundsUs.size());
  for (uint32_t i = 0; i < kLatencyBoundsUs.size(); i++) bounds.Set(i, kLatencyBoundsUs[i]);
  Napi::Array failures = Napi::Array::New(env);
  uint32_t count = 0;
  for (const auto& [error, times] : figures.failures) {
    failures.Set(count++, error);
    failures.Set(count++, static_cast<double>(times));
  }
  Napi::Array all = Napi::Array::New(env);
  uint32_t at = 0;
  for (const uint64_t figure :
       {figures.bytesWritten, figures.blocks, figures.queueBytes, figures.assemblyBytes, figures.openFiles}) {
    all.Set(at++, static_cast<double>(figure));
  }
  all.Set(at++, bounds);
  all.Set(at++, figuresOf(env, processRecorder().writeLatency()));
  all.Set(at++, figuresOf(env, processRecorder().syncLatency()));
  all.Set(at++, failures);
  return all;
}

// lockFile(fd, exclusive): 0 or an errno; on any thread, worker threads' too
Napi::Value LockFile(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), lockFile(info[0].As<Napi::Number>().Int32Value(), boolOf(info, 1)));
}

}  // namespace

Recorder& processRecorder() {
  static auto* recorder = new Recorder([] {
    const std::lock_guard lock(wakeUpMutex);
    if (canWakeUp) uv_async_send(&wakeUp);
  });
  return *recorder;
}

void exportRecorder(Napi::Env env, Napi::Object exports) {
  exports.Set("recorderStart", Napi::Function::New(env, Start));
  exports.Set("recorderConfigure", Napi::Function::New(env, Configure));
  exports.Set("recorderOpen", Napi::Function::New(env, Open));
  exports.Set("recorderStartNs", Napi::Function::New(env, StartNs));
  exports.Set("recorderWriteHeader", Napi::Function::New(env, WriteHeader));
  exports.Set("recorderAppend", Napi::Function::New(env, Append));
  exports.Set("recorderHoldsBack", Napi::Function::New(env, HoldsBack));
  exports.Set("recorderSync", Napi::Function::New(env, Sync));
  exports.Set("recorderClose", Napi::Function::New(env, Close));
  exports.Set("recorderStop", Napi::Function::New(env, Stop));
  exports.Set("recorderFlushAll", Napi::Function::New(env, FlushAll));
  exports.Set("recorderStatistics", Napi::Function::New(env, Statistics));
  exports.Set("lockFile", Napi::Function::New(env, LockFile));
}

}  // namespace couplet
