// The way of a message: uWebSockets.js's socket -> here -> the mate's socket.
#include "half.h"

namespace couplet {

namespace {

// Sends a run of `from`'s rewritten frames to its mate: straight to the socket where nothing waits before it, so that
// large messages are never copied; else to the queue. A TLS socket is never written to from here (see half.h).
void forward(Half& from, Half& to, const char* run, size_t length) {
  to.tailInFrame = from.reader.inFrame();
  to.tailInMessage = from.reader.inMessage();
  if (to.out.empty() && !to.ssl()) {
    const int written = us.write(0, to.socket, run, static_cast<int>(length), 0);
    to.lastWriteTick = relay.tick;
    if (static_cast<size_t>(written) == length) {
      to.sent.set(from.reader.payloadLeft());
      return;
    }
    applyPause(to);
    to.sent.walk(run, static_cast<size_t>(written));
    run += written;
    length -= static_cast<size_t>(written);
    to.out.append(run, length);
  } else {
    if (to.out.empty()) to.lastWriteTick = relay.tick;  // progress is judged from when there was something to write
    to.out.append(run, length);
    if (to.ssl()) markDirty(to);
  }
  if (to.out.size() > from.pair->limits.highWaterBytes) pauseReading(from, kFlow);
}

// What the frame reader calls back; `to` takes frames as long as it is not being closed.
struct Sink {
  Half& from;
  Half& to;
  void output(char* run, size_t length) {
    if (to.accepts()) forward(from, to, run, length);
  }
  void ping(const char* payload, size_t length) { sendPong(from, {payload, length}); }
  void pong() {}
  void close(const char* payload, size_t length) { onPeerClose(from, {payload, length}); }
  void boundary(bool messageEnd) {
    from.reader.wantsBoundary = false;
    atFrameEnd(to, messageEnd);
  }
};

// The same where the session is recorded.
struct RecordingSink : Sink {
  int64_t arrivedNs;  // of all that one read brings
  void payload(const char* data, size_t length, uint64_t left, bool isBinary, bool fin) {
    if (to.accepts()) record(from, data, length, left, isBinary, fin, arrivedNs);
  }
  void boundary(bool messageEnd) {
    Sink::boundary(messageEnd);
    afterRecorded(from);
  }
};

// A half that is being closed: its frames are followed only to see its own close frame.
struct ClosingSink {
  Half& from;
  void output(char*, size_t) {}
  void ping(const char*, size_t) {}
  void pong() {}
  void close(const char*, size_t) { onPeerClose(from, {}); }
  void boundary(bool) {}
};

void readPaired(Half& half, char* data, size_t length) {
  half.lastReadTick = relay.tick;
  half.pingTick = 0;
  if (half.opaqueInput || half.peerClosed) return;
  FrameReader& reader = half.reader;
  if (half.mate == nullptr || !half.mate->accepts()) {
    ClosingSink sink{half};
    if (reader.feed(data, length, sink) != FrameError::none) half.opaqueInput = true;
    return;
  }
  const uint64_t bytes = reader.bytes;
  const uint64_t messages = reader.messages;
  Pair& pair = *half.pair;
  FrameError error;
  if (pair.recording == nullptr) {
    Sink sink{half, *half.mate};
    error = reader.feed(data, length, sink);
  } else {
    RecordingSink sink{{half, *half.mate}, recordingNowNs(half)};
    error = reader.feed(data, length, sink);
    afterRecording(half);
  }
  DirectionCount& count = half.count();
  count.bytes += reader.bytes - bytes;
  count.messages += reader.messages - messages;
  if (reader.bytes != bytes || reader.messages != messages) pair.lastMessageTick = relay.tick;
  if (pair.pace || pair.userPace) chargePace(half, reader.bytes - bytes);
  if (error != FrameError::none) onFrameError(half, error);
}

// µSockets reads again at once after a read that filled its buffer, paused or not; returning null to the loop ends
// that. It is also what keeps a fast sender from holding the loop: one buffer per socket and turn.
us_socket_t* endOfRead(const Half& half, us_socket_t* socket, int length) {
  return half.pausedBy != 0 || length == kReadBufferBytes ? nullptr : socket;
}

us_socket_t* plainData(us_socket_t* socket, char* data, int length) {
  Half* half = relay.find(socket);
  if (half == nullptr) return hooksOf(us.context(0, socket))->data(socket, data, length);
  if (half->mode == Mode::native) {
    readPaired(*half, data, static_cast<size_t>(length));
    return endOfRead(*half, socket, length);
  }
  us_socket_t* result = half->hooks->data(socket, data, length);
  return half->stage == Stage::gone ? result : endOfRead(*half, result, length);
}

us_socket_t* passKept(Half& half, us_socket_t* socket) {
  std::vector<std::string> reads;
  reads.swap(half.undelivered);
  us_socket_t* result = socket;
  for (std::string& read : reads) {
    if (half.stage == Stage::gone) break;
    char* const data = read.data() + kParserPadding;
    const size_t length = read.size() - 2 * kParserPadding;
    if (half.mode == Mode::native) {
      readPaired(half, data, length);
    } else {
      result = half.hooks->data(socket, data, static_cast<int>(length));
    }
  }
  return result;
}

// A waiting TLS half is read a little, for its peer may say goodbye (sweep.cc); what it says is kept for its mate.
void keepOfWaiting(Half& half, const char* data, int length) {
  keepRead(half, {data, static_cast<size_t>(length)});
  pauseReading(half, kHeld);
  if (!half.promised && holdsCloseFrame(keptBytes(half), half.client)) answerGoodbye(half);
}

us_socket_t* tlsData(us_socket_t* socket, char* data, int length) {
  Half* half = relay.find(socket);
  if (half == nullptr) return hooksOf(us.context(1, socket))->data(socket, data, length);
  if (half->mode == Mode::native) {
    readPaired(*half, data, static_cast<size_t>(length));
    return socket;
  }
  if (half->mode == Mode::held) {
    keepOfWaiting(*half, data, length);
    return socket;
  }
  // uWebSockets.js writes what it has buffered for a socket at the end of each of that socket's reads. Where the TLS
  // layer has filled its buffer, undecrypted input may be left, which such a write would delete: the read is kept until
  // the TLS layer has used its input up.
  if (length == kReadBufferBytes || !half->undelivered.empty()) {
    keepRead(*half, {data, static_cast<size_t>(length)});
    return socket;
  }
  return half->hooks->data(socket, data, length);
}

// The handler below the TLS layer: the only place from which null may be returned, for the TLS layer itself follows
// what its inner handler returns (and calls this one with length 0 to go on after a blocked read).
us_socket_t* tlsBaseData(us_socket_t* socket, char* data, int length) {
  Half* half = relay.find(socket);
  if (half == nullptr) return hooksOf(us.context(1, socket))->baseData(socket, data, length);
  half->inTlsRead = true;
  us_socket_t* result = socket;
  // All but the last record first: see tls_records.h.
  const size_t last = half->records.follow(data, static_cast<size_t>(length));
  if (last != 0) result = half->hooks->baseData(socket, data, static_cast<int>(last));
  if (half->stage != Stage::gone) {
    result = half->hooks->baseData(socket, data + last, length - static_cast<int>(last));
  }
  half->inTlsRead = false;
  if (half->mode == Mode::portable && half->stage != Stage::gone && !half->undelivered.empty()) {
    result = passKept(*half, socket);
  }
  if (half->stage == Stage::gone || length == 0) return result;
  return endOfRead(*half, result, length);
}

template <bool ssl>
us_socket_t* socketWritable(us_socket_t* socket) {
  Half* half = relay.find(socket);
  if (half == nullptr) return hooksOf(us.context(ssl, socket))->writable(socket);
  if (half->mode == Mode::native) {
    flush(*half);
    return socket;
  }
  us_socket_t* result = half->hooks->writable(socket);
  if (half->stage != Stage::gone) applyPause(*half);
  return result;
}

template <bool ssl>
us_socket_t* socketEnd(us_socket_t* socket) {
  Half* half = relay.find(socket);
  if (half == nullptr) return hooksOf(us.context(ssl, socket))->baseEnd(socket);
  if (half->mode != Mode::native) return half->hooks->baseEnd(socket);
  onPeerEnd(*half, true, HalfError::broken);
  return socket;
}

template <bool ssl>
us_socket_t* socketClosed(us_socket_t* socket, int code, void* reason) {
  Half* half = relay.find(socket);
  ContextHooks* hooks = half == nullptr ? hooksOf(us.context(ssl, socket)) : half->hooks;
  if (half != nullptr) onSocketClosed(*half);
  return hooks->close(socket, code, reason);
}

}  // namespace

const Handlers& socketHandlers(bool ssl) {
  static const Handlers plain = {plainData, plainData, socketWritable<false>, socketEnd<false>, socketClosed<false>};
  static const Handlers tls = {tlsData, tlsBaseData, socketWritable<true>, socketEnd<true>, socketClosed<true>};
  return ssl ? tls : plain;
}

void keepRead(Half& half, std::string_view bytes) {
  std::string kept(kParserPadding, 0);
  kept.append(bytes);
  kept.append(kParserPadding, 0);
  half.undelivered.push_back(std::move(kept));
}

std::string keptBytes(const Half& half) {
  std::string all;
  for (const std::string& read : half.undelivered) {
    all.append(read, kParserPadding, read.size() - 2 * kParserPadding);
  }
  return all;
}

void deliverKept(Half& half) {
  passKept(half, half.socket);
  if (half.stage != Stage::gone) resumeReading(half, kHeld);
}

void applyPause(Half& half) {
  if (half.pausedBy == 0 || half.socket == nullptr) return;
  us.pollChange(half.poll(), half.hooks->loop, us.pollEvents(half.poll()) & ~kReadable);
}

void pauseReading(Half& half, uint8_t reason) {
  const uint8_t before = half.pausedBy;
  half.pausedBy |= reason;
  if ((reason & kFlow) && !(before & kFlow)) {
    half.flowPausedSinceMs = uv_now(relay.loop);
    if (half.pair != nullptr) half.pair->flowPauses++;
  }
  if ((half.pausedBy & kThrottles) && !(before & kThrottles)) half.throttledSinceMs = uv_now(relay.loop);
  if (before != 0) return;
  applyPause(half);
  if (half.listedPaused) return;
  half.listedPaused = true;
  relay.paused.push_back(half.id);
}

void resumeReading(Half& half, uint8_t reason) {
  const uint8_t before = half.pausedBy;
  half.pausedBy &= static_cast<uint8_t>(~reason);
  if (half.pausedBy == before) return;
  if (half.pair != nullptr && (before & kFlow) && !(half.pausedBy & kFlow)) {
    half.count().flowPausedMs += uv_now(relay.loop) - half.flowPausedSinceMs;
  }
  if ((before & kThrottles) && !(half.pausedBy & kThrottles)) {
    if (half.pair != nullptr) half.count().throttledMs += uv_now(relay.loop) - half.throttledSinceMs;
  }
  if (half.pausedBy != 0 || half.socket == nullptr) return;
  half.lastReadTick = relay.tick;  // silence while paused says nothing about the peer
  half.pingTick = 0;
  us.pollChange(half.poll(), half.hooks->loop, us.pollEvents(half.poll()) | kReadable);
}

}  // namespace couplet
