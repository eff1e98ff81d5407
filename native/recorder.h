// Recordings: blocks are framed and queued on the event loop's thread, written and synced by threads of the recorder's
// own [R36]. What a thread owns:
//
//   event loop  Recorder but for its totals and events; Recording's first part (the putting side of its queue)
//   writer      Recording's third part: the taking side of the queue, offsets; writes, ends and truncates files
//   syncer      Recording's fourth part: fdatasync, fsync of folders, closing files
//   opener      Recording's third and fourth part before its lane has it: folders, making files, locking them
//
// A recording belongs to one lane (a writer and a syncer) for life, so its bytes are in order without a lock. No lock
// is taken by append(): bytes go through a queue with one putting and one taking thread (write_queue.h), and "this
// file has something to write" through lists that are pushed to and emptied atomically. A mutex is taken, and a
// sleeping writer woken, only where a limit is crossed or a writer sleeps that had nothing to do.
#pragma once

#include <sys/uio.h>

#include <array>
#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "clock.h"
#include "mcrec.h"
#include "write_queue.h"

namespace couplet {

// The system calls that may wait for a disk; tests bring their own.
struct Disk {
  int (*openat)(int folder, const char* name, int flags, mode_t mode);
  ssize_t (*pwritev)(int fd, const iovec* pieces, int count, off_t offset);
  int (*fdatasync)(int fd);
  int (*fsync)(int fd);
  int (*ftruncate)(int fd, off_t length);
  int (*fallocate)(int fd, int mode, off_t offset, off_t length);
};
extern const Disk systemDisk;

enum class RecorderEventKind : uint8_t {
  opened,    // the files are there, and locked; without it the recording's failure is that they could not be made
  durable,   // what was queued when sync() was called is on the disk
  closed,    // the file is closed: once for each recording, its last event
  failed,    // the recording (or its sidecar alone) has ended, or not begun, at an error: once
  holdBack,  // strict recordings' sessions are to be paused: this one, or (handle 0) all of them
  goOn,      // ... and may go on
};

struct RecorderEvent {
  RecorderEventKind kind;
  uint32_t handle = 0;  // 0: all recordings
  int error = 0;        // failed: an errno; ENOBUFS where the queue's limit ended it
  uint64_t bytes = 0;   // durable, closed: the file's length
  bool complete = false;  // closed: it ends as it should, with an end block; failed: only the sidecar has ended
  std::string file = {};  // opened, failed, closed: the file's name in its folder
};

struct RecorderOptions {
  uint32_t threads = 1;  // lanes; fixed by the first open()
  uint64_t flushBytes = 256 << 10;
  uint32_t flushMs = 250;
  uint32_t fsyncMs = 1000;
  uint64_t maxQueueBytes = 256 << 20;
  uint64_t lowQueueBytes = 128 << 20;
  uint64_t maxFileQueueBytes = 64 << 20;  // so that one session cannot use up what all of them share
};

struct RecordingOptions {
  bool strict = false;   // a full queue holds its session back instead of ending the recording
  bool sidecar = true;
  bool lines = false;    // not blocks but lines of text: append() takes them as they are, with their line feeds
};

constexpr std::array<uint32_t, 14> kLatencyBoundsUs = {50,    100,   250,    500,    1000,   2500,    5000,
                                                       10000, 25000, 50000, 100000, 250000, 500000, 1000000};

struct LatencyHistogram {
  std::array<std::atomic<uint64_t>, kLatencyBoundsUs.size() + 1> buckets{};  // each by itself, not added up
  std::atomic<uint64_t> sumUs{0};
  void add(int64_t ns);
};

class Recorder;
class Lane;
class Opener;
struct Folder;

class Recording {
 public:
  static constexpr int64_t kNow = -1;

  // All of these on the event loop's thread, from open() until Recorder::close(). They return false where the
  // recording has ended at an error, which the `failed` event tells.

  // Records one whole message. Zero-length ones are not recorded [M5]. `arrivedNs`: by nowNs(), where several messages
  // have arrived at once; not less than that of what was recorded before.
  bool append(uint16_t flags, const char* data, size_t length, int64_t arrivedNs = kNow);
  // The first block [M2]; nothing can be appended before it.
  bool writeHeader(const char* json, size_t length);
  // A message that is forwarded in pieces: one block, which stands where, and whose time is when, its last byte came
  // [M9]. One message can be in pieces for each direction; kFromUser in `flags` tells which. `expected`: its length
  // where that is known, else 0. A message that is begun and not ended is not recorded.
  bool begin(uint16_t flags, size_t expected);
  bool more(uint16_t flags, const char* data, size_t length);
  bool end(uint16_t flags, int64_t arrivedNs = kNow);
  // Whether its session should be paused until `goOn`; always false where the recording is not strict.
  bool holdsBack() const;

  uint32_t handle() const { return handle_; }
  int64_t nowNs() const { return clock_.monotonicNs(); }
  int64_t startNs() const { return clock_.startNs(); }

 private:
  friend class Recorder;
  friend class Lane;
  friend class Opener;
  Recording(Recorder& recorder, Lane& lane, const std::string& name, const RecordingOptions& options);
  ~Recording();

  enum class State : uint8_t { opened, recording, ended };
  struct Assembly {
    explicit Assembly(ChunkPool& pool) : list(pool) {}
    ChunkList list;
    uint32_t crc = 0;
    uint16_t flags = 0;
    bool active = false;
  };

  bool ready(size_t length);
  void putBlock(uint16_t type, uint16_t flags, const char* data, size_t length, int64_t arrivedNs);
  void putEnd();
  void putLine(const char* data, size_t length, int64_t arrivedNs);
  // Copies to a list; returns the checksum of what it is of before and of this, 0 where no sidecar asks for one.
  uint32_t copyChecked(ChunkList& list, uint32_t crc, const char* data, size_t length, bool large) const;
  // Hands what was put into the queue's list to the writer, and crosses limits.
  void published(int64_t monotonicNs, uint64_t bytes);
  void endAt(int error);
  Assembly& assembly(uint16_t flags) { return assemblies_[(flags & kFromUser) != 0]; }
  void drop(Assembly& assembly);
  void retain() { references_.fetch_add(1, std::memory_order_relaxed); }
  void release();

  // -- 1: the event loop's --
  Recorder& recorder_;
  Lane& lane_;
  const RecordingOptions options_;
  const FileClock clock_;
  WriteQueue queue_;
  const std::string name_;
  uint32_t handle_ = 0;
  State state_ = State::opened;
  bool ownerClosed_ = false;
  bool closedSeen_ = false;
  Assembly assemblies_[2];

  // -- 2: between threads --
  std::atomic<uint32_t> references_{1};
  std::atomic<bool> stopped_{false};     // the writer has given the file up: nothing more is taken
  std::atomic<bool> closing_{false};     // nothing more will be put in
  // Is, or is about to be, in the lane's list of files with something to write, or of those to be looked at now. Both
  // from the start: nobody brings it to its lane before the opener does.
  std::atomic<bool> isDirty_{true};
  std::atomic<bool> isUrgent_{true};
  std::atomic<bool> isSyncDue_{false};   // waits for its periodic fdatasync
  std::atomic<bool> syncWanted_{false};
  std::atomic<bool> heldBack_{false};    // changed under the recorder's event mutex
  std::atomic<bool> fileClosed_{false};
  std::atomic<int> syncError_{0};
  std::atomic<bool> failureTold_{false};
  std::atomic<uint64_t> wholeBytes_{0};  // the file's length up to its last whole block
  int64_t dirtySinceNs_ = 0;             // of the oldest block that may be unwritten; handed over with the list
  Recording* nextDirty_ = nullptr;
  Recording* nextUrgent_ = nullptr;

  // -- 3: the opener's, then the writer's, then the syncer's --
  int openError_ = 0;
  bool arrived_ = false;
  int fd_ = -1;
  int sidecarFd_ = -1;  // -1: none
  bool begun_ = false;
  bool finished_ = false;
  bool complete_ = false;
  bool hasReserve_ = false;
  bool sidecarEnded_ = false;
  uint64_t sidecarBytes_ = 0;
  uint32_t blockNumber_ = 0;
  // The block that the walk over written bytes is in.
  uint32_t dataLeft_ = 0;
  QueuedHeader block_{};

  // -- 4: the opener's, then the syncer's --
  std::shared_ptr<Folder> folder_;
  uint64_t folderCount_ = 0;  // how many files were made in the folder when this one was
};

// One for the process; tests make their own.
class Recorder {
 public:
  struct Statistics {
    uint64_t bytesWritten, blocks, queueBytes, assemblyBytes, openFiles;
    std::map<int, uint64_t> failures;  // by errno; a name that is taken is none
  };

  // `onEvents` is called on any thread when there are events to dispatch.
  explicit Recorder(std::function<void()> onEvents = {}, const ClockSource& clock = systemClock,
                    const Disk& disk = systemDisk);
  // Writes and closes everything first.
  ~Recorder();
  Recorder(const Recorder&) = delete;
  Recorder& operator=(const Recorder&) = delete;

  void configure(const RecorderOptions& options);
  const RecorderOptions& options() const { return options_; }

  // Orders NAME (and NAME.cpt) to be made in a folder; messages can be appended at once. `opened` tells that the files
  // are there, `failed` (EEXIST: the name is taken) and then `closed` that they are not; nothing of them is left then.
  // nullptr and EINVAL: a name that is no plain file name, or too long. The pointer is good until close().
  Recording* open(const std::string& folder, const std::string& name, const RecordingOptions& options, int& error);
  // To be called once for each recording, also where it has failed: ends it after all that is queued, at this moment
  // [M11]. The pointer is not to be used any more; `closed` tells when the file is closed.
  void close(Recording* recording);
  // Asks for a `durable` event for everything queued so far.
  void sync(Recording* recording);
  Recording* find(uint32_t handle) const;

  // For the process's end: writes what is queued and returns when that is done, at the latest after `timeoutMs`;
  // false where it is not done by then. `finish`: all recordings are closed as well.
  bool flushAll(bool finish, uint32_t timeoutMs);

  // On the event loop's thread: hands out all events there are.
  template <class Take>
  void dispatch(Take take) {
    for (const RecorderEvent& event : takeEvents()) take(event);
  }

  Statistics statistics();
  const LatencyHistogram& writeLatency() const { return writeLatency_; }
  const LatencyHistogram& syncLatency() const { return syncLatency_; }

 private:
  friend class Recording;
  friend class Lane;
  friend class Opener;

  std::vector<RecorderEvent> takeEvents();
  void forget(Recording* recording);
  void endNow(Recording& recording);
  void tell(RecorderEvent event);
  void pushLocked(RecorderEvent event);
  void countFailure(int error);
  // Taken out is read first: what was put in can only have grown since, so that this never goes below zero.
  uint64_t queued() const {
    const uint64_t retired = retired_.load();
    return put_.load() - retired;
  }
  bool isOverfull(const Recording& recording) const;
  // The event loop's: a limit is crossed. Any thread's: bytes have left the queue.
  void holdBack(Recording* recording);
  void relieve(Recording& recording);

  const ClockSource& clock_;
  const Disk disk_;
  const std::function<void()> onEvents_;
  RecorderOptions options_;
  // What other threads read of the options.
  std::atomic<int64_t> flushNs_, fsyncNs_;
  std::atomic<uint64_t> flushBytes_, lowQueueBytes_, lowFileQueueBytes_;
  std::atomic<bool> isFlushing_{false};  // flushAll() waits: no file's rest stays for its age
  ChunkPool pool_;
  std::unordered_map<uint32_t, Recording*> recordings_;
  uint32_t nextHandle_ = 1;
  uint64_t assembling_ = 0;
  uint64_t blocks_ = 0;

  alignas(64) std::atomic<uint64_t> put_{0};      // bytes put into queues; changed by the event loop alone
  alignas(64) std::atomic<uint64_t> retired_{0};  // bytes taken out, written or given up
  std::atomic<uint64_t> bytesWritten_{0};
  std::atomic<bool> heldBack_{false};
  LatencyHistogram writeLatency_, syncLatency_;

  std::mutex eventMutex_;
  std::vector<RecorderEvent> events_;
  std::map<int, uint64_t> failures_;

  std::vector<std::unique_ptr<Lane>> lanes_;
  std::unique_ptr<Opener> opener_;
};

}  // namespace couplet
