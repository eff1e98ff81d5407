// What the addon exports; src/native/binding.ts gives it types. Arguments are checked there, not here.
#include <napi.h>
#include <sys/resource.h>
#include <v8.h>

#include "half.h"
#include "recorder_addon.h"

namespace couplet {

namespace {

Napi::FunctionReference pairEndCallback;
Napi::AsyncContext* pairEndContext = nullptr;

uint32_t idOf(const Napi::CallbackInfo& info, size_t at) { return info[at].As<Napi::Number>().Uint32Value(); }
double numberOf(const Napi::CallbackInfo& info, size_t at) { return info[at].As<Napi::Number>().DoubleValue(); }
std::string textOf(const Napi::CallbackInfo& info, size_t at) { return info[at].As<Napi::String>().Utf8Value(); }
bool boolOf(const Napi::CallbackInfo& info, size_t at) { return info[at].As<Napi::Boolean>().Value(); }

// uWebSockets.js keeps the us_socket_t in the WebSocket object's first internal field, null once it is closed.
us_socket_t* socketOf(const Napi::Value& value) {
  if (!value.IsObject()) return nullptr;
  const napi_value raw = value;
  v8::Local<v8::Value> local;
  static_assert(sizeof local == sizeof raw, "a napi_value is a v8::Local");
  memcpy(static_cast<void*>(&local), &raw, sizeof local);
  const v8::Local<v8::Object> object = local.As<v8::Object>();
  if (object->InternalFieldCount() < 1) return nullptr;
  return static_cast<us_socket_t*>(object->GetAlignedPointerFromInternalField(0));
}

// load(onPairEnd(pairId, outcome, closedBy, error)): string, empty where the addon works with this uWebSockets.js
Napi::Value Load(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const std::string error = loadUSockets();
  if (!error.empty()) return Napi::String::New(env, error);
  uv_loop_t* loop = nullptr;
  napi_get_uv_event_loop(env, &loop);
  if (relay.loop != nullptr && relay.loop != loop) return Napi::String::New(env, "the addon serves another thread");
  pairEndCallback = Napi::Persistent(info[0].As<Napi::Function>());
  if (pairEndContext == nullptr) pairEndContext = new Napi::AsyncContext(env, "couplet:pairEnd");
  relay.onPairEnd = [](Pair& pair) {
    const Napi::Env env = pairEndCallback.Env();
    const Napi::HandleScope scope(env);
    pairEndCallback.MakeCallback(env.Global(),
                                 {Napi::Number::New(env, pair.id), Napi::Number::New(env, static_cast<int>(pair.outcome)),
                                  Napi::Number::New(env, static_cast<int>(pair.closedBy)),
                                  Napi::Number::New(env, static_cast<int>(pair.error))},
                                 *pairEndContext);
  };
  startLoopHooks(loop);
  return Napi::String::New(env, "");
}

// hold(ws, ssl): half id, 0 where the socket is closed; throws where the context cannot be hooked
Napi::Value Hold(const Napi::CallbackInfo& info) {
  std::string error;
  const uint32_t id = hold(socketOf(info[0]), boolOf(info, 1), error);
  if (!error.empty()) Napi::Error::New(info.Env(), error).ThrowAsJavaScriptException();
  return Napi::Number::New(info.Env(), id);
}

// isGone(halfId): boolean
Napi::Value IsGone(const Napi::CallbackInfo& info) {
  Half* half = relay.half(idOf(info, 0));
  return Napi::Boolean::New(info.Env(), half == nullptr || isGone(*half));
}

// adoptLink(fd, head): half id, 0 where that cannot be done
Napi::Value AdoptLink(const Napi::CallbackInfo& info) {
  const auto head = info[1].As<Napi::Uint8Array>();
  const uint32_t id = adoptLink(info[0].As<Napi::Number>().Int32Value(),
                                {reinterpret_cast<const char*>(head.Data()), head.ByteLength()});
  return Napi::Number::New(info.Env(), id);
}

// markLink(halfId): a held half is the accepting end of a link
void MarkLink(const Napi::CallbackInfo& info) {
  Half* half = relay.half(idOf(info, 0));
  if (half != nullptr && half->mode == Mode::held) half->link = true;
}

// halves(): how many there are whose sockets are not closed
Napi::Value Halves(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), static_cast<double>(relay.halves.size()));
}

// promise(halfId, isPromised): a held half is about to be paired, or is not after all
void Promise(const Napi::CallbackInfo& info) {
  Half* half = relay.half(idOf(info, 0));
  if (half != nullptr) half->promised = info[1].As<Napi::Boolean>();
}

// close(halfId, code, reason): for a half that is not natively paired
void Close(const Napi::CallbackInfo& info) {
  Half* half = relay.half(idOf(info, 0));
  if (half == nullptr || half->mode == Mode::native) return;
  startClose(*half, static_cast<uint16_t>(idOf(info, 1)), textOf(info, 2), false);
}

// pair(userId, deviceId, greeting, highWater, lowWater, maxMessage, idleMs, stallMs, lingerMs, pingMs, hardClose,
//      bytesPerSecond, userKey, userBytesPerSecond, owner, recordingHandle, recordsStrictly): pair id, 0 where a half is
//      gone
Napi::Value PairUp(const Napi::CallbackInfo& info) {
  Half* user = relay.half(idOf(info, 0));
  Half* device = relay.half(idOf(info, 1));
  if (user == nullptr || device == nullptr) return Napi::Number::New(info.Env(), 0);
  PairLimits limits;
  limits.highWaterBytes = static_cast<uint64_t>(numberOf(info, 3));
  limits.lowWaterBytes = static_cast<uint64_t>(numberOf(info, 4));
  limits.maxMessageBytes = static_cast<uint64_t>(numberOf(info, 5));
  limits.idleTicks = ticksFor(static_cast<uint64_t>(numberOf(info, 6)));
  limits.stallTicks = ticksFor(static_cast<uint64_t>(numberOf(info, 7)));
  limits.lingerMs = static_cast<uint32_t>(numberOf(info, 8));
  limits.pingTicks = ticksFor(static_cast<uint64_t>(numberOf(info, 9)));
  limits.hardClose = boolOf(info, 10);
  const Pair* pair = pairHalves(idOf(info, 14), *user, *device, textOf(info, 2), limits, numberOf(info, 11), textOf(info, 12),
                                numberOf(info, 13), idOf(info, 15), boolOf(info, 16));
  return Napi::Number::New(info.Env(), pair == nullptr ? 0 : pair->id);
}

// sendText(pairId, toUser, text)
void SendText(const Napi::CallbackInfo& info) {
  const Pair* pair = relay.pair(idOf(info, 0));
  if (pair == nullptr) return;
  Half* half = boolOf(info, 1) ? pair->user : pair->device;
  if (half != nullptr) sendText(*half, textOf(info, 2));
}

// end(pairId, outcome, code, reason, keepTail)
void End(const Napi::CallbackInfo& info) {
  Pair* pair = relay.pair(idOf(info, 0));
  if (pair == nullptr) return;
  endPair(*pair, static_cast<Outcome>(idOf(info, 1)), static_cast<uint16_t>(idOf(info, 2)), textOf(info, 3),
          boolOf(info, 4));
}

// What is counted of one direction, a pause of its sender that still lasts included.
DirectionCount countNow(const DirectionCount& counted, const Half* sender) {
  DirectionCount count = counted;
  if (sender == nullptr) return count;
  const uint64_t now = uv_now(relay.loop);
  if (sender->pausedBy & kThrottles) count.throttledMs += now - sender->throttledSinceMs;
  if (sender->pausedBy & kFlow) count.flowPausedMs += now - sender->flowPausedSinceMs;
  return count;
}

size_t bufferedNow(const Pair& pair) {
  size_t bytes = 0;
  for (const Half* half : {pair.user, pair.device}) bytes += half == nullptr ? 0 : half->out.size();
  return bytes;
}

// Those of `figures` in src/native/binding.ts.
constexpr size_t kFigures = 10;

// Where figures go; null, and an exception, where there is no room for them.
double* figuresOf(const Napi::CallbackInfo& info, size_t index) {
  auto array = info[index].As<Napi::Float64Array>();
  if (array.ElementLength() >= kFigures) return array.Data();
  Napi::Error::New(info.Env(), "an array for figures is too short").ThrowAsJavaScriptException();
  return nullptr;
}

void writeCounts(const DirectionCount& fromUser, const DirectionCount& fromDevice, double* into) {
  into[0] = static_cast<double>(fromUser.bytes);
  into[1] = static_cast<double>(fromDevice.bytes);
  into[2] = static_cast<double>(fromUser.messages);
  into[3] = static_cast<double>(fromDevice.messages);
  into[4] = static_cast<double>(fromUser.throttledMs);
  into[5] = static_cast<double>(fromDevice.throttledMs);
  into[6] = static_cast<double>(fromUser.flowPausedMs);
  into[7] = static_cast<double>(fromDevice.flowPausedMs);
}

// statistics(pairId, figures): false where the pair is gone
Napi::Value Statistics(const Napi::CallbackInfo& info) {
  const Pair* pair = relay.pair(idOf(info, 0));
  if (pair == nullptr) return Napi::Boolean::New(info.Env(), false);
  double* into = figuresOf(info, 1);
  if (into == nullptr) return info.Env().Undefined();
  writeCounts(countNow(pair->fromUser, pair->user), countNow(pair->fromDevice, pair->device), into);
  into[8] = static_cast<double>(bufferedNow(*pair));
  return Napi::Boolean::New(info.Env(), true);
}

// owner(): an id for one relay's pairs, so that several relays of a process count for themselves
Napi::Value Owner(const Napi::CallbackInfo& info) {
  const uint32_t id = relay.nextId++;
  relay.totals[id] = {};
  return Napi::Number::New(info.Env(), id);
}

// totals(owner, figures)
void ReadTotals(const Napi::CallbackInfo& info) {
  const uint32_t owner = idOf(info, 0);
  double* into = figuresOf(info, 1);
  if (into == nullptr) return;
  Totals sum = relay.totals[owner];
  size_t buffered = 0;
  for (const auto& [id, pair] : relay.pairs) {
    if (pair->owner != owner) continue;
    sum.fromUser += countNow(pair->fromUser, pair->user);
    sum.fromDevice += countNow(pair->fromDevice, pair->device);
    sum.flowPauses += pair->flowPauses;
    buffered += bufferedNow(*pair);
  }
  writeCounts(sum.fromUser, sum.fromDevice, into);
  into[8] = static_cast<double>(buffered);
  into[9] = static_cast<double>(sum.flowPauses);
}

// adopt(halfId): a held half goes to uWebSockets.js again, with pause and resume of the addon's
void Adopt(const Napi::CallbackInfo& info) {
  Half* half = relay.half(idOf(info, 0));
  if (half == nullptr || half->mode != Mode::held || half->client) return;
  half->mode = Mode::portable;
  if (half->undelivered.empty()) {
    resumeReading(*half, kHeld);
  } else {
    markDirty(*half);
  }
}

// pause(halfId), resume(halfId), keepPaused(halfId): the portable path's flow control
void Pause(const Napi::CallbackInfo& info) {
  Half* half = relay.half(idOf(info, 0));
  if (half != nullptr && half->mode == Mode::portable) pauseReading(*half, kAsked);
}
void Resume(const Napi::CallbackInfo& info) {
  Half* half = relay.half(idOf(info, 0));
  if (half != nullptr && half->mode == Mode::portable) resumeReading(*half, kAsked);
}
void KeepPaused(const Napi::CallbackInfo& info) {
  Half* half = relay.half(idOf(info, 0));
  if (half != nullptr && half->mode == Mode::portable) applyPause(*half);
}

// forbidCoreDumps(): for this process and its children
void ForbidCoreDumps(const Napi::CallbackInfo&) {
  const rlimit none = {0, 0};
  setrlimit(RLIMIT_CORE, &none);
}

}  // namespace

Napi::Object Init(Napi::Env env, Napi::Object exports) {
  exports.Set("load", Napi::Function::New(env, Load));
  exports.Set("hold", Napi::Function::New(env, Hold));
  exports.Set("adoptLink", Napi::Function::New(env, AdoptLink));
  exports.Set("markLink", Napi::Function::New(env, MarkLink));
  exports.Set("halves", Napi::Function::New(env, Halves));
  exports.Set("isGone", Napi::Function::New(env, IsGone));
  exports.Set("promise", Napi::Function::New(env, Promise));
  exports.Set("close", Napi::Function::New(env, Close));
  exports.Set("pair", Napi::Function::New(env, PairUp));
  exports.Set("sendText", Napi::Function::New(env, SendText));
  exports.Set("end", Napi::Function::New(env, End));
  exports.Set("statistics", Napi::Function::New(env, Statistics));
  exports.Set("owner", Napi::Function::New(env, Owner));
  exports.Set("totals", Napi::Function::New(env, ReadTotals));
  exports.Set("adopt", Napi::Function::New(env, Adopt));
  exports.Set("pause", Napi::Function::New(env, Pause));
  exports.Set("resume", Napi::Function::New(env, Resume));
  exports.Set("forbidCoreDumps", Napi::Function::New(env, ForbidCoreDumps));
  exports.Set("keepPaused", Napi::Function::New(env, KeepPaused));
  exportRecorder(env, exports);
  return exports;
}

NODE_API_MODULE(couplet, Init)

}  // namespace couplet
