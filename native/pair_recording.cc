// A recorded pair and the recorder: what is recorded, when reading pauses for the disk, what a failure does.
#include "half.h"
#include "recorder_addon.h"

namespace couplet {

namespace {

void endByFailure(Pair& pair) {
  endPair(pair, Outcome::recordingFailed, 4500, "the recording failed", false);
}

void holdBack(Pair& pair) {
  for (Half* half : {pair.user, pair.device}) {
    if (half != nullptr && half->stage == Stage::open) pauseReading(*half, kRecorder);
  }
}

void goOn(Pair& pair) {
  for (Half* half : {pair.user, pair.device}) {
    if (half != nullptr && half->pausedBy & kRecorder) resumeReading(*half, kRecorder);
  }
}

// Outside every socket callback, and before JavaScript hears of it and closes a recording that failed.
void onEvent(const RecorderEvent& event) {
  if (event.handle == 0) {  // all strict recordings
    for (const auto& [handle, pair] : relay.recorded) {
      if (event.kind == RecorderEventKind::goOn) goOn(*pair);
      if (event.kind == RecorderEventKind::holdBack && pair->recordsStrictly) holdBack(*pair);
    }
    return;
  }
  const auto found = relay.recorded.find(event.handle);
  if (found == relay.recorded.end()) return;
  Pair& pair = *found->second;
  if (event.kind == RecorderEventKind::goOn) {
    goOn(pair);
  } else if (event.kind == RecorderEventKind::holdBack) {
    holdBack(pair);
  } else if (event.kind == RecorderEventKind::failed && !event.complete) {  // complete: only its sidecar has ended
    stopRecording(pair);
    if (pair.recordsStrictly) endByFailure(pair);
  }
}

}  // namespace

void startRecording(Pair& pair, uint32_t handle, bool strict) {
  onRecorderEvent = onEvent;
  pair.recording = processRecorder().find(handle);
  pair.recordingHandle = handle;
  pair.recordsStrictly = strict;
  if (pair.recording != nullptr) {
    relay.recorded.emplace(handle, &pair);
  } else if (strict) {
    endByFailure(pair);
  }
}

void record(Half& from, const char* data, size_t length, uint64_t left, bool isBinary, bool fin, int64_t arrivedNs) {
  Recording* recording = from.pair->recording;
  if (recording == nullptr) return;  // it has ended in this read
  const auto flags = static_cast<uint16_t>((from.userSide ? kFromUser : 0) | (isBinary ? kBinaryData : 0));
  const bool whole = fin && left == 0;
  bool taken = true;
  if (whole && !from.inPieces) {
    taken = recording->append(flags, data, length, arrivedNs);
  } else {
    if (!from.inPieces) taken = recording->begin(flags, fin ? length + left : 0);
    from.inPieces = !whole;
    taken = taken && recording->more(flags, data, length) && (!whole || recording->end(flags, arrivedNs));
  }
  if (taken) return;
  from.pair->recording = nullptr;  // the recorder tells why
  from.reader.wantsBoundary = from.reader.wantsBoundary || from.pair->recordsStrictly;
}

void afterRecorded(Half& half) {
  const Pair& pair = *half.pair;
  if (pair.recording == nullptr && pair.recordsStrictly) endByFailure(*half.pair);
}

int64_t recordingNowNs(const Half& from) { return from.pair->recording->nowNs(); }

void afterRecording(Half& half) {
  Pair& pair = *half.pair;
  if (pair.recording == nullptr) {
    if (pair.recordsStrictly) endByFailure(pair);
  } else if (pair.recording->holdsBack() && half.stage == Stage::open) {
    pauseReading(half, kRecorder);
  }
}

void stopRecording(Pair& pair) {
  pair.recording = nullptr;
  if (pair.recordingHandle != 0) relay.recorded.erase(pair.recordingHandle);
  goOn(pair);
}

}  // namespace couplet
