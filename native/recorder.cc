// The event loop's side of the recorder: opening and closing files, limits, events. Framing is in recording.cc.
#include "recorder.h"

#include <cerrno>
#include <chrono>
#include <thread>

#include "recorder_lane.h"
#include "recorder_open.h"

namespace couplet {

namespace {

constexpr size_t kMaxNameBytes = 251;  // NAME_MAX less ".cpt"

bool isFileName(const std::string& name) {
  return !name.empty() && name.size() <= kMaxNameBytes && name != "." && name != ".." &&
         name.find('/') == std::string::npos && name.find('\0') == std::string::npos;
}

}  // namespace

void LatencyHistogram::add(int64_t ns) {
  const auto us = static_cast<uint64_t>(ns < 0 ? 0 : ns / 1000);
  size_t bucket = 0;
  while (bucket != kLatencyBoundsUs.size() && us > kLatencyBoundsUs[bucket]) bucket++;
  buckets[bucket].fetch_add(1, std::memory_order_relaxed);
  sumUs.fetch_add(us, std::memory_order_relaxed);
}

Recorder::Recorder(std::function<void()> onEvents, const ClockSource& clock, const Disk& disk)
    : clock_(clock), disk_(disk), onEvents_(std::move(onEvents)) {
  configure({});
}

Recorder::~Recorder() {
  flushAll(true, UINT32_MAX);
  opener_.reset();
  lanes_.clear();
  for (const auto& [handle, recording] : recordings_) recording->release();
}

void Recorder::configure(const RecorderOptions& options) {
  const uint32_t threads = lanes_.empty() ? options.threads : options_.threads;
  options_ = options;
  options_.threads = threads == 0 ? 1 : threads;
  flushBytes_ = options.flushBytes;
  flushNs_ = int64_t{options.flushMs} * 1'000'000;
  fsyncNs_ = int64_t{options.fsyncMs} * 1'000'000;
  lowQueueBytes_ = options.lowQueueBytes;
  lowFileQueueBytes_ = options.maxFileQueueBytes / 2;
}

Recording* Recorder::open(const std::string& path, const std::string& name, const RecordingOptions& given, int& error) {
  error = 0;
  if (!isFileName(name) || path.empty() || path.find('\0') != std::string::npos) {
    error = EINVAL;
    return nullptr;
  }
  RecordingOptions options = given;
  if (options.lines) options.sidecar = false;
  for (size_t i = lanes_.size(); i < options_.threads; i++) lanes_.push_back(std::make_unique<Lane>(*this, i));
  if (opener_ == nullptr) opener_ = std::make_unique<Opener>(*this);
  while (nextHandle_ == 0 || recordings_.contains(nextHandle_)) nextHandle_++;
  const uint32_t handle = nextHandle_++;
  auto* recording = new Recording(*this, *lanes_[handle % lanes_.size()], name, options);
  recording->handle_ = handle;
  recordings_[handle] = recording;
  opener_->order(*recording, path);
  return recording;
}

Recording* Recorder::find(uint32_t handle) const {
  const auto found = recordings_.find(handle);
  return found == recordings_.end() || found->second->ownerClosed_ ? nullptr : found->second;
}

void Recorder::endNow(Recording& recording) {
  if (recording.state_ == Recording::State::ended) return;
  for (Recording::Assembly& assembly : recording.assemblies_) recording.drop(assembly);
  if (!recording.stopped_.load(std::memory_order_acquire)) recording.putEnd();
  recording.state_ = Recording::State::ended;
  recording.closing_.store(true);
  recording.lane_.pushUrgent(recording);
}

void Recorder::close(Recording* recording) {
  endNow(*recording);
  recording->ownerClosed_ = true;
  if (recording->closedSeen_) forget(recording);
}

void Recorder::sync(Recording* recording) {
  recording->syncWanted_.store(true);
  recording->lane_.pushUrgent(*recording);
}

void Recorder::forget(Recording* recording) {
  recordings_.erase(recording->handle_);
  recording->release();
}

bool Recorder::flushAll(bool finish, uint32_t timeoutMs) {
  using Clock = std::chrono::steady_clock;
  const auto deadline = Clock::now() + std::chrono::milliseconds(timeoutMs);
  isFlushing_.store(true);
  for (const auto& [handle, recording] : recordings_) {
    if (finish) endNow(*recording);
    recording->lane_.pushUrgent(*recording);
  }
  bool inTime = true;
  // Asked for again and again instead of waited for: this is the way out of the process, not its work.
  for (const auto& entry : recordings_) {
    const Recording* recording = entry.second;
    const auto isDone = [&] {
      if (recording->fileClosed_.load(std::memory_order_acquire)) return true;
      return !finish && recording->queue_.backlog() == 0;
    };
    while (inTime && !isDone()) {
      inTime = Clock::now() < deadline;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }
  isFlushing_.store(false);
  return inTime;
}

// -- limits --------------------------------------------------------------------------------------------------------

bool Recorder::isOverfull(const Recording& recording) const {
  return recording.queue_.backlog() > options_.maxFileQueueBytes || queued() > options_.maxQueueBytes;
}

void Recorder::holdBack(Recording* recording) {
  const uint32_t handle = recording == nullptr ? 0 : recording->handle_;
  std::atomic<bool>& held = recording == nullptr ? heldBack_ : recording->heldBack_;
  {
    // Flag and event change together, so that a `goOn` never overtakes its `holdBack`.
    const std::lock_guard lock(eventMutex_);
    held.store(true);
    pushLocked({.kind = RecorderEventKind::holdBack, .handle = handle});
    // The writer may have taken everything out before it could see the flag; nobody else would take it back then.
    if (recording == nullptr ? queued() <= lowQueueBytes_.load()
                             : recording->queue_.backlog() <= lowFileQueueBytes_.load()) {
      held.store(false);
      pushLocked({.kind = RecorderEventKind::goOn, .handle = handle});
    }
  }
  if (onEvents_) onEvents_();
}

void Recorder::relieve(Recording& recording) {
  if (!recording.heldBack_.load() && !heldBack_.load()) return;
  {
    const std::lock_guard lock(eventMutex_);
    const WriteQueue& queue = recording.queue_;
    if (recording.heldBack_.load() && queue.published() - queue.taken() <= lowFileQueueBytes_.load()) {
      recording.heldBack_.store(false);
      pushLocked({.kind = RecorderEventKind::goOn, .handle = recording.handle_});
    }
    if (heldBack_.load() && queued() <= lowQueueBytes_.load()) {
      heldBack_.store(false);
      pushLocked({.kind = RecorderEventKind::goOn});
    }
  }
  if (onEvents_) onEvents_();
}

// -- events and figures --------------------------------------------------------------------------------------------

void Recorder::pushLocked(RecorderEvent event) { events_.push_back(std::move(event)); }

void Recorder::tell(RecorderEvent event) {
  {
    const std::lock_guard lock(eventMutex_);
    pushLocked(std::move(event));
  }
  if (onEvents_) onEvents_();
}

std::vector<RecorderEvent> Recorder::takeEvents() {
  std::vector<RecorderEvent> events;
  {
    const std::lock_guard lock(eventMutex_);
    events.swap(events_);
  }
  for (const RecorderEvent& event : events) {
    if (event.kind != RecorderEventKind::closed) continue;
    Recording* recording = recordings_.at(event.handle);
    recording->closedSeen_ = true;
    if (recording->ownerClosed_) forget(recording);
  }
  return events;
}

void Recorder::countFailure(int error) {
  const std::lock_guard lock(eventMutex_);
  failures_[error]++;
}

Recorder::Statistics Recorder::statistics() {
  uint64_t openFiles = 0;  // a recording that has ended early is kept until its session ends
  for (const auto& [handle, recording] : recordings_) openFiles += recording->closedSeen_ ? 0 : 1;
  const std::lock_guard lock(eventMutex_);
  return {bytesWritten_.load(), blocks_, queued(), assembling_, openFiles, failures_};
}

}  // namespace couplet
