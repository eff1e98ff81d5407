// Framing and queueing of one recording's messages, on the event loop's thread.
#include "recorder.h"

#include <unistd.h>

#include <cerrno>

#include "recorder_lane.h"
#include "recorder_open.h"

namespace couplet {

namespace {

// An assembled message up to this size is copied behind what its file has queued; a longer one brings its own chunks.
constexpr uint64_t kCopiedBytes = ChunkPool::kSmallBytes;
constexpr size_t kTurnBytes = 8192;

// `at`: kBlockHeaderBytes in a queue.
void storeQueued(char* at, uint16_t type, uint16_t flags, size_t size, int64_t wallNs, uint32_t crc) {
  const QueuedHeader header = {.size = static_cast<uint32_t>(size),
                               .crc = crc,
                               .micros = static_cast<uint64_t>(wallNs) / 1000,
                               .type = type,
                               .flags = flags};
  memcpy(at, &header, sizeof header);
}

}  // namespace

Recording::Recording(Recorder& recorder, Lane& lane, const std::string& name, const RecordingOptions& options)
    : recorder_(recorder),
      lane_(lane),
      options_(options),
      clock_(recorder.clock_),
      queue_(recorder.pool_),
      name_(name),
      state_(options.lines ? State::recording : State::opened),
      assemblies_{Assembly(recorder.pool_), Assembly(recorder.pool_)} {}

Recording::~Recording() {
  for (Assembly& assembly : assemblies_) assembly.list.clear();
  if (fd_ >= 0) ::close(fd_);
  if (sidecarFd_ >= 0) ::close(sidecarFd_);
}

void Recording::release() {
  if (references_.fetch_sub(1, std::memory_order_acq_rel) == 1) delete this;
}

bool Recording::ready(size_t length) {
  if (state_ != State::recording || stopped_.load(std::memory_order_acquire)) return false;
  if (length > UINT32_MAX) {
    endAt(EFBIG);
    return false;
  }
  if (!options_.strict && recorder_.isOverfull(*this)) {
    endAt(ENOBUFS);
    return false;
  }
  return true;
}

bool Recording::writeHeader(const char* json, size_t length) {
  if (state_ != State::opened || length == 0) return false;
  state_ = State::recording;
  if (!ready(length)) return false;
  putBlock(kHeaderBlock, 0, json, length, clock_.monotonicNs());
  return true;
}

bool Recording::append(uint16_t flags, const char* data, size_t length, int64_t arrivedNs) {
  if (!ready(length)) return false;
  if (length == 0) return true;
  if (arrivedNs == kNow) arrivedNs = clock_.monotonicNs();
  if (options_.lines) {
    putLine(data, length, arrivedNs);
  } else {
    putBlock(kDataBlock, flags, data, length, arrivedNs);
  }
  return true;
}

void Recording::putLine(const char* data, size_t length, int64_t arrivedNs) {
  queue_.list().copy(data, length, queue_.backlog() > ChunkPool::kManyBytes);
  published(arrivedNs, length);
}

void Recording::putBlock(uint16_t type, uint16_t flags, const char* data, size_t length, int64_t arrivedNs) {
  ChunkList& list = queue_.list();
  const bool large = queue_.backlog() > ChunkPool::kManyBytes;
  char* header = list.reserve(kBlockHeaderBytes, large);
  const uint32_t crc = copyChecked(list, 0, data, length, large);
  storeQueued(header, type, flags, length, clock_.wallNs(arrivedNs), crc);
  published(arrivedNs, kBlockHeaderBytes + length);
}

void Recording::putEnd() {
  if (options_.lines || state_ != State::recording) return;
  putBlock(kEndBlock, 0, kEndMagic, kEndMagicBytes, clock_.monotonicNs());
}

// The checksum is taken here, where the bytes have just been read and are in the processor's caches: the writer would
// wait for them. By turns with copying, so that a large message comes to its nearest cache once.
uint32_t Recording::copyChecked(ChunkList& list, uint32_t crc, const char* data, size_t length, bool large) const {
  if (!options_.sidecar) {
    list.copy(data, length, large);
    return 0;
  }
  while (length != 0) {
    const size_t step = length < kTurnBytes ? length : kTurnBytes;
    crc = crc32c(crc, data, step);
    list.copy(data, step, large || length > ChunkPool::kManyBytes);
    data += step;
    length -= step;
  }
  return crc;
}

void Recording::published(int64_t monotonicNs, uint64_t bytes) {
  recorder_.blocks_++;
  const uint64_t put = recorder_.put_.load(std::memory_order_relaxed) + bytes;
  recorder_.put_.store(put, std::memory_order_relaxed);  // before the writer can take it out
  queue_.publish();
  // The writer clears the flag before it looks at the queue, so either it sees these bytes or this sees it cleared.
  if (!isDirty_.load(std::memory_order_seq_cst)) {
    isDirty_.store(true, std::memory_order_relaxed);
    dirtySinceNs_ = monotonicNs;
    lane_.pushDirty(*this);
  }
  const uint64_t backlog = queue_.backlog();
  const RecorderOptions& limits = recorder_.options_;
  // Before the writer is called, which leaves no rest where a session is held back.
  if (options_.strict) {
    if (backlog > limits.maxFileQueueBytes && !heldBack_.load(std::memory_order_relaxed)) recorder_.holdBack(this);
    if (recorder_.queued() > limits.maxQueueBytes && !recorder_.heldBack_.load(std::memory_order_relaxed)) {
      recorder_.holdBack(nullptr);
    }
  }
  if (backlog >= limits.flushBytes && !isUrgent_.load(std::memory_order_relaxed)) lane_.pushUrgent(*this);
}

bool Recording::begin(uint16_t flags, size_t expected) {
  if (options_.lines || !ready(expected)) return false;
  Assembly& assembly = this->assembly(flags);
  drop(assembly);
  assembly.flags = flags;
  assembly.crc = 0;
  assembly.active = true;
  assembly.list.reserve(kBlockHeaderBytes, expected > ChunkPool::kManyBytes);
  recorder_.assembling_ += kBlockHeaderBytes;
  return true;
}

bool Recording::more(uint16_t flags, const char* data, size_t length) {
  Assembly& assembly = this->assembly(flags);
  if (!assembly.active) return false;
  if (!ready(assembly.list.bytes() + length)) {
    drop(assembly);
    return false;
  }
  // Neither subject to back-pressure, which would keep the message from ever being complete, nor to a limit of all
  // together, by which one sender's unfinished messages would end others' recordings: relay.maxMessageBytes bounds it.
  assembly.crc = copyChecked(assembly.list, assembly.crc, data, length, assembly.list.bytes() > ChunkPool::kManyBytes);
  recorder_.assembling_ += length;
  return true;
}

bool Recording::end(uint16_t flags, int64_t arrivedNs) {
  Assembly& assembly = this->assembly(flags);
  const uint64_t bytes = assembly.list.bytes();
  if (!assembly.active) return false;
  if (!ready(bytes)) {
    drop(assembly);
    return false;
  }
  if (bytes > kBlockHeaderBytes) {
    if (arrivedNs == kNow) arrivedNs = clock_.monotonicNs();
    Chunk* first = assembly.list.first();
    storeQueued(first->data(), kDataBlock, assembly.flags, bytes - kBlockHeaderBytes, clock_.wallNs(arrivedNs),
                assembly.crc);
    if (bytes <= first->capacity && bytes <= kCopiedBytes) {
      ChunkList& list = queue_.list();
      memcpy(list.reserve(kBlockHeaderBytes, false), first->data(), kBlockHeaderBytes);
      list.copy(first->data() + kBlockHeaderBytes, bytes - kBlockHeaderBytes, false);
    } else {
      recorder_.assembling_ -= bytes;
      queue_.list().splice(assembly.list);
    }
    published(arrivedNs, bytes);
  }
  drop(assembly);
  return true;
}

void Recording::drop(Assembly& assembly) {
  recorder_.assembling_ -= assembly.list.bytes();
  assembly.list.clear();
  assembly.active = false;
}

bool Recording::holdsBack() const {
  return options_.strict && (heldBack_.load(std::memory_order_relaxed) || recorder_.heldBack_.load(std::memory_order_relaxed));
}

// Ends the recording with a valid end block, at an error that is not the disk's.
void Recording::endAt(int error) {
  recorder_.endNow(*this);
  if (failureTold_.exchange(true)) return;
  recorder_.countFailure(error);
  recorder_.tell({.kind = RecorderEventKind::failed, .handle = handle_, .error = error, .file = name_});
}

}  // namespace couplet
