// The writer thread: how recordings come to it, and when it turns to which. What it does then is in recorder_write.cc.
#include "recorder_lane.h"

#include <fcntl.h>
#include <pthread.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <csignal>

namespace couplet {

namespace {

template <ssize_t (*call)(int, const iovec*, int, off_t)>
ssize_t passOn(int fd, const iovec* pieces, int count, off_t offset) {
  return call(fd, pieces, count, offset);
}

}  // namespace

const Disk systemDisk = {[](int folder, const char* name, int flags, mode_t mode) {
                           return ::openat(folder, name, flags, mode);
                         },
                         passOn<::pwritev>, ::fdatasync, ::fsync, ::ftruncate, ::fallocate};

std::thread startThread(const std::string& name, std::function<void()> run) {
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  std::thread thread(std::move(run));
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  pthread_setname_np(thread.native_handle(), name.substr(0, 15).c_str());
  return thread;
}

Lane::Lane(Recorder& recorder, size_t number) : recorder_(recorder), disk_(recorder.disk_) {
  writer_ = startThread("rec-write-" + std::to_string(number), [this] { runWriter(); });
  syncer_ = startThread("rec-sync-" + std::to_string(number), [this] { runSyncer(); });
}

Lane::~Lane() {
  stop_.store(true);
  wake();
  writer_.join();
  {
    const std::lock_guard lock(syncMutex_);
    stopSyncer_ = true;
  }
  syncWakeUp_.notify_one();
  syncer_.join();
  for (const SyncDue& due : due_) due.recording->release();
}

// -- lists ---------------------------------------------------------------------------------------------------------

void Lane::pushDirty(Recording& recording) {
  recording.retain();
  recording.nextDirty_ = dirty_.load(std::memory_order_relaxed);
  while (!dirty_.compare_exchange_weak(recording.nextDirty_, &recording)) {
  }
  // A writer with files that wait for their age looks here when the first of them is of age, which is soon enough.
  if (sleep_.load() == Sleep::idle) wake();
}

void Lane::pushUrgent(Recording& recording) {
  if (recording.isUrgent_.exchange(true)) return;
  recording.retain();
  enqueueUrgent(recording);
}

void Lane::pushOpened(Recording& recording) { enqueueUrgent(recording); }

void Lane::enqueueUrgent(Recording& recording) {
  recording.nextUrgent_ = urgent_.load(std::memory_order_relaxed);
  while (!urgent_.compare_exchange_weak(recording.nextUrgent_, &recording)) {
  }
  if (sleep_.load() != Sleep::awake) wake();
}

void Lane::wake() {
  {
    const std::lock_guard lock(mutex_);
    woken_ = true;
  }
  wakeUp_.notify_one();
}

// Takes all that was pushed to a list, in the order in which it was: the list has the newest in front.
Recording* Lane::takeAll(std::atomic<Recording*>& list, Recording* Recording::*next) {
  Recording* oldest = nullptr;
  for (Recording* at = list.exchange(nullptr); at != nullptr;) {
    Recording* older = at->*next;
    at->*next = oldest;
    oldest = at;
    at = older;
  }
  return oldest;
}

void Lane::collectDirty() {
  Recording* at = takeAll(dirty_, &Recording::nextDirty_);
  for (; at != nullptr; at = at->nextDirty_) waiting_.push_back(at);
}

bool Lane::serviceUrgent() {
  if (urgent_.load() == nullptr) return false;
  for (Recording* at = takeAll(urgent_, &Recording::nextUrgent_); at != nullptr;) {
    Recording* next = at->nextUrgent_;
    at->isUrgent_.store(false);  // before looking at what there is to do: what comes now is pushed again
    service(*at, false);
    at->release();
    at = next;
  }
  return true;
}

void Lane::runWriter() {
  for (;;) {
    while (serviceUrgent()) {
    }
    collectDirty();
    // Woken when the oldest is 3/4 of flushMs old; then all from 1/2 on are written, so that thousands of files with
    // a little each cost a few awakenings, and a quarter is left for the disk.
    const int64_t flushNs = recorder_.flushNs_.load();
    while (!waiting_.empty() && waiting_.front()->dirtySinceNs_ + flushNs / 2 <= nowNs()) {
      Recording* recording = waiting_.front();
      waiting_.pop_front();
      recording->isDirty_.store(false);
      service(*recording, true);
      recording->release();
      serviceUrgent();
    }
    if (stop_.load()) break;
    waitForWork();
  }
  for (collectDirty(); !waiting_.empty(); waiting_.pop_front()) waiting_.front()->release();
}

void Lane::waitForWork() {
  std::unique_lock lock(mutex_);
  const auto isWoken = [this] { return woken_; };
  if (waiting_.empty()) {
    sleep_.store(Sleep::idle);
    // Whoever pushed before the store above did not wake this thread.
    if (dirty_.load() == nullptr && urgent_.load() == nullptr && !stop_.load()) wakeUp_.wait(lock, isWoken);
  } else {
    sleep_.store(Sleep::timed);
    const int64_t leftNs = waiting_.front()->dirtySinceNs_ + recorder_.flushNs_.load() * 3 / 4 - nowNs();
    if (leftNs > 0 && urgent_.load() == nullptr && !stop_.load()) {
      wakeUp_.wait_for(lock, std::chrono::nanoseconds(leftNs), isWoken);
    }
  }
  woken_ = false;
  sleep_.store(Sleep::awake);
}

// -- one recording -------------------------------------------------------------------------------------------------

// `all`: all that is queued is to be written now, for it is of age. Else what is left stays among those that wait for
// their age, where a recording with unwritten bytes always is.
void Lane::service(Recording& recording, bool all) {
  if (!recording.arrived_) {
    recording.arrived_ = true;
    all = true;
    recording.isDirty_.store(false);  // nobody pushed it so far
    if (recording.openError_ != 0) refuse(recording);
  }
  // Read before the queue: where these say so, all there will be is published.
  const bool closing = recording.closing_.load();
  const bool report = recording.syncWanted_.exchange(false);
  if (recording.finished_) {
    discard(recording);  // put in before the event loop knew
    return;
  }
  const int syncError = recording.syncError_.load();
  if (syncError != 0) {
    fail(recording, syncError);
    return;
  }
  const uint64_t before = recording.queue_.taken();
  // Who is held back, or waits, waits for the rest as well.
  const bool awaited = closing || report || recording.heldBack_.load() || recorder_.heldBack_.load() ||
                       recorder_.isFlushing_.load();
  if (!writeQueued(recording, all || awaited)) return;
  if (report) orderSync(recording, true, false);
  if (closing) {
    finish(recording, true);
  } else if (recording.queue_.taken() != before && !recording.isSyncDue_.exchange(true)) {
    orderSync(recording, false, false);
  }
}

// Ends a recording whose files could not be made.
void Lane::refuse(Recording& recording) {
  recording.stopped_.store(true, std::memory_order_release);
  recording.finished_ = true;
  // A name that is taken is answered with another one; nothing is wrong with the disk.
  if (recording.openError_ != EEXIST) recorder_.countFailure(recording.openError_);
  if (!recording.failureTold_.exchange(true)) {
    recorder_.tell({.kind = RecorderEventKind::failed,
                    .handle = recording.handle_,
                    .error = recording.openError_,
                    .file = recording.name_});
  }
  discard(recording);
  recorder_.tell({.kind = RecorderEventKind::closed, .handle = recording.handle_, .file = recording.name_});
  recording.fileClosed_.store(true, std::memory_order_release);
}

}  // namespace couplet
