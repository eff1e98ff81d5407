// Writing to halves, and the ways in which halves and pairs end.
#include "half.h"

namespace couplet {

namespace {

// A whole frame of the relay's own for a half.
std::string frameFor(const Half& half, uint8_t opcode, std::string_view payload) {
  char header[kMaxClientHeader];
  std::string frame(header, writeHeader(header, 0x80 | opcode, payload.size(), half.client));
  frame.append(payload);
  return frame;
}

// code 0: a close frame without a code, the answer to such a one.
std::string closeFrameFor(const Half& half, uint16_t code, std::string_view reason) {
  if (code == 0) return frameFor(half, kClose, {});
  std::string payload = {static_cast<char>(code >> 8), static_cast<char>(code)};
  payload.append(reason.substr(0, kMaxControlPayload - 2));
  return frameFor(half, kClose, payload);
}

// Cuts what is queued for a half down to the rest of the frame that is partly sent. False where that frame is not all
// here: then nothing of the relay's own may follow yet.
bool cutBacklog(Half& half) {
  FrameWalker at = half.sent;
  size_t keep = 0;
  half.out.forEach([&](const char* data, size_t length) {
    if (at.atBoundary()) return false;
    keep += at.walk(data, length, true);
    return true;
  });
  if (!at.atBoundary()) return false;
  half.out.truncate(keep);
  half.tailInFrame = half.tailInMessage = false;
  return true;
}

// The sender will never complete the frame in transit to `half`: takes its beginning out of the queue. False where
// bytes of it are already sent.
bool dropUnfinishedFrame(Half& half, const FrameReader& sender) {
  if (!half.tailInFrame) return true;
  const uint64_t bytes = sender.frameOutBytes();
  if (half.out.size() < bytes) return false;
  half.out.truncate(half.out.size() - static_cast<size_t>(bytes));
  half.tailInFrame = half.tailInMessage = false;
  return true;
}

void abortHalf(Half& half) {
  if (half.stage == Stage::gone) return;
  half.stage = Stage::lingering;
  half.closeNow = true;
  markDirty(half);
}

void reportIfOver(Pair* pair) {
  if (pair == nullptr || pair->reported || !pair->ended) return;
  if ((pair->user != nullptr && pair->user->stage < Stage::lingering) ||
      (pair->device != nullptr && pair->device->stage < Stage::lingering)) {
    return;
  }
  pair->reported = true;
  stopRecording(*pair);
  relay.ended.push_back(pair);
}

void queueCloseFrame(Half& half) {
  half.stage = Stage::draining;
  half.deferredPong.clear();
  half.deferredText.clear();
  append(half, half.closeFrame);
  half.closeFrame.clear();
}

// All is written: the peer's end is awaited for a moment, or not at all.
void drained(Half& half) {
  if (half.stage != Stage::draining) return;
  half.stage = Stage::lingering;
  // The far server answers a link once it has read up to the close frame. Closed before, the connection would be reset
  // by anything that still comes, and the tail lost.
  const bool waits = half.link && half.pair != nullptr;
  half.deadlineTick = relay.tick + ticksFor(waits ? half.pair->limits.lingerMs : kCloseMs);
  const bool hard = half.pair != nullptr && half.pair->limits.hardClose;
  if (half.peerClosed || half.finReceived) {
    half.closeNow = true;
    markDirty(half);
  } else if (hard || half.opaqueInput) {
    // The stream ends here, but the socket stays open for what the peer may still send: closed with unread input it
    // would be reset, and the reset could overtake the tail. (Where input is opaque the peer's close frame would not
    // be seen; its end of stream will be.)
    us.shutdown(half.ssl(), half.socket);
  }
  reportIfOver(half.pair);
}

void setCause(Pair& pair, Outcome outcome, ClosedBy by, HalfError error) {
  if (pair.ended) return;
  pair.ended = true;
  pair.outcome = outcome;
  pair.closedBy = by;
  pair.error = error;
}

}  // namespace

void markDirty(Half& half) {
  if (half.dirty || half.stage == Stage::gone) return;
  half.dirty = true;
  relay.dirty.push_back(&half);
}

void append(Half& half, std::string_view bytes) {
  if (half.out.empty()) half.lastWriteTick = relay.tick;
  half.out.append(bytes.data(), bytes.size());
  markDirty(half);
}

void flush(Half& half) {
  while (!half.out.empty()) {
    const std::string_view piece = half.out.front();
    const int written = us.write(half.ssl(), half.socket, piece.data(), static_cast<int>(piece.size()), 0);
    if (written <= 0) {
      // A reset whose error an earlier write was told polls as writable for ever and never as an error.
      if (isBroken(half)) {
        half.closeNow = true;
        markDirty(half);
        return;
      }
      break;
    }
    half.sent.walk(piece.data(), static_cast<size_t>(written));
    half.out.consume(static_cast<size_t>(written));
    half.lastWriteTick = relay.tick;
    if (static_cast<size_t>(written) < piece.size()) break;
  }
  applyPause(half);
  if (half.pair != nullptr && half.out.size() <= half.pair->limits.lowWaterBytes) {
    if (half.mate != nullptr) resumeReading(*half.mate, kFlow);
    if (!half.deferredPong.empty() && half.stage == Stage::open) {
      if (!half.tailInFrame) {
        append(half, half.deferredPong);
        half.deferredPong.clear();
      } else if (half.mate != nullptr) {
        half.mate->reader.wantsBoundary = true;
      }
    }
  }
  if (half.out.empty()) drained(half);
}

void sendText(Half& half, std::string_view text) {
  if (half.stage != Stage::open) return;
  const std::string frame = frameFor(half, kText, text);
  if (half.tailInMessage) {
    half.deferredText.append(frame);
    if (half.mate != nullptr) half.mate->reader.wantsBoundary = true;
  } else {
    append(half, frame);
  }
}

void sendPing(Half& half) {
  half.pingTick = relay.tick;
  append(half, frameFor(half, kPing, {}));
}

void sendPong(Half& half, std::string_view payload) {
  if (half.stage != Stage::open) return;
  std::string frame = frameFor(half, kPong, payload);
  if (half.tailInFrame || half.out.size() > half.pair->limits.lowWaterBytes) {
    half.deferredPong = std::move(frame);
    if (half.tailInFrame && half.mate != nullptr) half.mate->reader.wantsBoundary = true;
  } else {
    append(half, frame);
  }
}

void atFrameEnd(Half& half, bool messageEnd) {
  half.tailInFrame = false;
  if (messageEnd) half.tailInMessage = false;
  if (half.stage == Stage::finishing) {
    queueCloseFrame(half);
    return;
  }
  if (half.stage != Stage::open) return;
  if (!half.deferredPong.empty() && half.out.size() <= half.pair->limits.lowWaterBytes) {
    append(half, half.deferredPong);
    half.deferredPong.clear();
  }
  if (half.deferredText.empty()) return;
  if (messageEnd) {
    append(half, half.deferredText);
    half.deferredText.clear();
  } else {
    half.mate->reader.wantsBoundary = true;
  }
}

void startClose(Half& half, uint16_t code, std::string_view reason, bool keepTail) {
  if (half.stage != Stage::open) return;
  if (half.mode == Mode::portable) half.opaqueInput = true;
  half.mode = Mode::native;
  half.keepsTail = keepTail;
  half.closeFrame = closeFrameFor(half, code, reason);
  half.deadlineTick = relay.tick + ticksFor(keepTail ? half.pair->limits.lingerMs : kCloseMs);
  relay.closing.push_back(&half);
  if (!keepTail) cutBacklog(half);
  if (half.tailInFrame) {
    half.stage = Stage::finishing;
    if (half.mate == nullptr) {
      abortHalf(half);
    } else {
      half.mate->reader.wantsBoundary = true;
    }
  } else {
    queueCloseFrame(half);
  }
  resumeReading(half, kHeld | kAsked | kThrottles);  // to see its close frame or its end
}

void endPair(Pair& pair, Outcome outcome, uint16_t code, std::string_view reason, bool keepTail, ClosedBy by,
             HalfError error) {
  if (pair.ended) return;
  setCause(pair, outcome, by, error);
  if (pair.user != nullptr) startClose(*pair.user, code, reason, keepTail);
  if (pair.device != nullptr) startClose(*pair.device, code, reason, keepTail);
}

void onPeerClose(Half& half, std::string_view payload) {
  half.peerClosed = true;
  if (half.stage == Stage::open) {
    const uint16_t code = payload.size() < 2 ? 0 : static_cast<uint16_t>((static_cast<uint8_t>(payload[0]) << 8) |
                                                                        static_cast<uint8_t>(payload[1]));
    const Goodbye goodbye = goodbyeOf(half, code, payload.substr(code == 0 ? 0 : 2));
    if (half.pair != nullptr) setCause(*half.pair, goodbye.outcome, goodbye.by, goodbye.error);
    if (half.mate != nullptr) startClose(*half.mate, goodbye.code, goodbye.reason, goodbye.keepTail);
    startClose(half, code, {}, false);
  } else if (half.stage == Stage::lingering) {
    half.closeNow = true;
    markDirty(half);
  }
}

void onPeerEnd(Half& half, bool orderly, HalfError error) {
  half.finReceived = true;
  if (half.stage != Stage::gone) pauseReading(half, kFin);
  const Stage stage = half.stage;
  Half* mate = half.mate;
  if (stage == Stage::lingering || stage == Stage::open) abortHalf(half);
  if (half.pair != nullptr && stage == Stage::open) {
    setCause(*half.pair, Outcome::peerError, half.side(), error);
  }
  if (mate == nullptr) return;
  // An orderly end delivers what the half sent in full; a broken connection discards (R24).
  if (mate->stage == Stage::open) {
    const bool keepTail = orderly;
    if (mate->tailInFrame && !(keepTail ? dropUnfinishedFrame(*mate, half.reader) : cutBacklog(*mate))) {
      relay.closing.push_back(mate);
      abortHalf(*mate);
    } else {
      startClose(*mate, 4502, "peer connection lost", keepTail);
    }
  } else if (mate->stage == Stage::finishing) {
    abortHalf(*mate);  // the frame in transit to it will never be complete
  }
}

void onFrameError(Half& half, FrameError error) {
  half.opaqueInput = true;
  if (half.stage != Stage::open || half.pair == nullptr) return;
  if (error == FrameError::tooBig) {
    endPair(*half.pair, Outcome::limit, 1009, "relay.maxMessageBytes exceeded", false, ClosedBy::relay, HalfError::tooBig);
    return;
  }
  setCause(*half.pair, Outcome::peerError, half.side(), HalfError::protocol);
  if (half.mate != nullptr) startClose(*half.mate, 4502, "peer broke the protocol", false);
  startClose(half, 1002, "protocol error", false);
}

void onSocketClosed(Half& half) {
  if (half.stage == Stage::gone) return;
  half.socket = nullptr;  // its poll is stopped already: nothing may touch it
  const bool open = half.stage == Stage::open;
  // A TLS peer that says close_notify is closed from inside the read: as orderly as an end of stream.
  if (open && half.mode == Mode::native) onPeerEnd(half, half.inTlsRead, HalfError::broken);
  else if (half.mate != nullptr && half.mate->stage == Stage::finishing) abortHalf(*half.mate);
  resumeReading(half, 0xff);
  half.stage = Stage::gone;
  half.out.truncate(0);
  relay.byFd[static_cast<size_t>(half.fd)] = nullptr;
  relay.halves.erase(half.id);
  relay.graveyard.push_back(&half);
  Pair* pair = half.pair;
  if (half.mate != nullptr) half.mate->mate = nullptr;
  if (pair != nullptr) (half.userSide ? pair->user : pair->device) = nullptr;
  half.mate = nullptr;
  half.pair = nullptr;
  reportIfOver(pair);
  if (pair != nullptr && pair->user == nullptr && pair->device == nullptr) relay.done.push_back(pair);
}

}  // namespace couplet
