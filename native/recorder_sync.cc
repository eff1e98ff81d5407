// The syncer: makes durable what the writer has written, and closes files. A thread of its own, so that a disk that
// takes its time to sync does not delay the writing that flushMs is about.
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>

#include "recorder_lane.h"
#include "recorder_open.h"

namespace couplet {

namespace {

// Periodic syncs between two looks at what was ordered, which a strict session waits for.
constexpr size_t kSyncsInARow = 16;

template <class Call>
int retried(Call call) {
  int result;
  do {
    result = call();
  } while (result != 0 && errno == EINTR);
  return result == 0 ? 0 : errno;
}

}  // namespace

// On the writer's thread. Not reported and not final: to be done within fsyncMs from the time the data came; up to
// 3/4 of flushMs have gone by, and some time is left for the disk.
void Lane::orderSync(Recording& recording, bool report, bool final) {
  recording.retain();
  bool sleepsForever = false;
  {
    const std::lock_guard lock(syncMutex_);
    sleepsForever = due_.empty();
    if (report || final) {
      orders_.push_back({&recording, report, final});
    } else {
      due_.push_back({&recording, nowNs() + recorder_.fsyncNs_.load() * 5 / 8});
    }
  }
  if (report || final || sleepsForever) syncWakeUp_.notify_one();
}

void Lane::runSyncer() {
  std::vector<SyncOrder> orders;
  std::unique_lock lock(syncMutex_);
  for (;;) {
    if (!orders_.empty()) {
      orders.swap(orders_);
    } else if (stopSyncer_) {
      return;
    } else if (due_.empty()) {
      syncWakeUp_.wait(lock);
      continue;
    } else {
      const int64_t now = nowNs();
      const int64_t leftNs = due_.front().atNs - now;
      if (leftNs > 0) {
        syncWakeUp_.wait_for(lock, std::chrono::nanoseconds(leftNs));
        continue;
      }
      while (!due_.empty() && due_.front().atNs <= now && orders.size() != kSyncsInARow) {
        orders.push_back({due_.front().recording, false, false});
        due_.front().recording->isSyncDue_.store(false);  // before the sync: what is written from now on is another's
        due_.pop_front();
      }
    }
    lock.unlock();
    for (const SyncOrder& order : orders) {
      sync(order);
      order.recording->release();
    }
    orders.clear();
    lock.lock();
  }
}

int Lane::syncFile(Recording& recording) {
  const int64_t start = nowNs();
  Folder& folder = *recording.folder_;
  // The file's name must be on the disk as well. One sync of the folder serves all files that were made before it.
  if (folder.synced.load() < recording.folderCount_) {
    const uint64_t made = folder.made.load();
    const int error = retried([&] { return disk_.fsync(folder.fd); });
    if (error != 0 && error != EINVAL) return error;  // EINVAL: a file system that does not do this
    folder.synced.store(std::max(made, folder.synced.load()));
  }
  const int error = retried([&] { return disk_.fdatasync(recording.fd_); });
  recorder_.syncLatency_.add(nowNs() - start);
  return error;
}

void Lane::sync(const SyncOrder& order) {
  Recording& recording = *order.recording;
  if (recording.fd_ < 0) return;
  const uint64_t bytes = recording.wholeBytes_.load(std::memory_order_acquire);
  int error = syncFile(recording);
  // The kernel tells a failed write-back once: an error that an earlier sync was told still holds for the whole file.
  if (order.final && error == 0) error = recording.syncError_.load();
  if (!order.final) {
    if (error != 0) {
      recording.syncError_.store(error);
      pushUrgent(recording);  // the writer ends it
    } else if (order.report) {
      recorder_.tell({.kind = RecorderEventKind::durable, .handle = recording.handle_, .bytes = bytes});
    }
    return;
  }
  // Without a whole header block it is no recording, and nobody could tell what it was: a full disk leaves such files.
  const bool isNothing = bytes == 0 && !recording.options_.lines;
  if (isNothing) removeOurs(*recording.folder_, recording.name_, recording.fd_);
  if (recording.sidecarFd_ >= 0) {
    if (isNothing) removeOurs(*recording.folder_, recording.name_ + ".cpt", recording.sidecarFd_);
    // Without its sidecar's last second a recording is whole, so this error is only counted.
    const int sidecarError = retried([&] { return disk_.fdatasync(recording.sidecarFd_); });
    if (sidecarError != 0) recorder_.countFailure(sidecarError);
    ::close(recording.sidecarFd_);
    recording.sidecarFd_ = -1;
  }
  if (::close(recording.fd_) != 0 && errno != EINTR && error == 0) error = errno;
  recording.fd_ = -1;
  if (error != 0) {
    if (!recording.failureTold_.exchange(true)) {
      recorder_.countFailure(error);
      recorder_.tell({.kind = RecorderEventKind::failed,
                      .handle = recording.handle_,
                      .error = error,
                      .file = recording.name_});
    }
  }
  recorder_.tell({.kind = RecorderEventKind::closed,
                  .handle = recording.handle_,
                  .bytes = bytes,
                  .complete = recording.complete_ && error == 0,
                  .file = recording.name_});
  recording.fileClosed_.store(true, std::memory_order_release);
}

}  // namespace couplet
