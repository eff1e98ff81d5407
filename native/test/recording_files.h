// What the tests of the recorder share: a temporary folder, a disk with faults, and a reader that trusts nothing.
#pragma once

#include <dirent.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <climits>
#include <condition_variable>
#include <map>
#include <mutex>
#include <set>
#include <thread>

#include "../recorder.h"
#include "check.h"

namespace couplet::test {

class TemporaryFolder {
 public:
  TemporaryFolder() {
    const char* base = getenv("TMPDIR");
    path_ = std::string(base == nullptr ? "/tmp" : base) + "/couplet-recorder-XXXXXX";
    CHECK(mkdtemp(path_.data()) != nullptr);
  }
  ~TemporaryFolder() {
    for (const std::string& name : names()) ::unlink(at(name).c_str());
    ::rmdir(path_.c_str());
  }
  const std::string& path() const { return path_; }
  std::string at(const std::string& name) const { return path_ + "/" + name; }
  std::set<std::string> names() const {
    std::set<std::string> all;
    DIR* folder = opendir(path_.c_str());
    if (folder == nullptr) return all;
    while (const dirent* entry = readdir(folder)) {
      const std::string name = entry->d_name;
      if (name != "." && name != "..") all.insert(name);
    }
    closedir(folder);
    return all;
  }
  std::string read(const std::string& name) const {
    const int fd = ::open(at(name).c_str(), O_RDONLY);
    CHECK(fd >= 0);
    std::string all;
    char buffer[65536];
    ssize_t length;
    while ((length = ::read(fd, buffer, sizeof buffer)) > 0) all.append(buffer, static_cast<size_t>(length));
    CHECK_EQ(length, 0);
    ::close(fd);
    return all;
  }
  size_t size(const std::string& name) const {
    struct stat status;
    return ::stat(at(name).c_str(), &status) == 0 ? static_cast<size_t>(status.st_size) : 0;
  }

 private:
  std::string path_;
};

// A disk of real files with faults. All state is static, as the recorder's calls are plain functions.
struct FaultyDisk {
  // How far the recording's file, or the sidecar's, can grow before `error`; -1: without end.
  static inline std::atomic<int64_t> room{-1}, sidecarRoom{-1};
  static inline std::atomic<int> error{ENOSPC};
  static inline std::atomic<bool> forGood{false};        // once met, the error stays, for whatever is written
  static inline std::atomic<bool> reserves{true};        // fallocate works, and gives that room back
  static inline std::atomic<uint32_t> clumsiness{0};     // one call in so many is short, or interrupted; 0: none
  static inline std::atomic<int> syncError{0};
  static inline std::atomic<uint32_t> writeDelayMs{0};
  // Called by the opener for each folder and file it opens, before it does: an errno, or 0 to go on.
  static inline std::function<int(const std::string& name)> beforeOpen;
  static inline std::atomic<uint64_t> writes{0}, syncs{0}, folderSyncs{0};
  static inline std::mutex mutex;
  static inline std::condition_variable turned;
  static inline bool closed = false, openClosed = false;  // writes, opens wait; under mutex
  static inline std::set<int> reserved;
  static inline bool met = false;
  static inline Random random{0};

  static void reset() {
    const std::lock_guard lock(mutex);
    room = sidecarRoom = -1;
    error = ENOSPC;
    forGood = false;
    reserves = true;
    clumsiness = 0;
    syncError = 0;
    writeDelayMs = 0;
    writes = syncs = folderSyncs = 0;
    closed = openClosed = met = false;
    beforeOpen = {};
    reserved.clear();
    random = Random(seed);
  }
  static void gate(bool close) {
    const std::lock_guard lock(mutex);
    closed = close;
    turned.notify_all();
  }
  static void openGate(bool close) {
    const std::lock_guard lock(mutex);
    openClosed = close;
    turned.notify_all();
  }
  static bool isSidecar(int fd) {
    char path[PATH_MAX];
    const ssize_t length = readlink(("/proc/self/fd/" + std::to_string(fd)).c_str(), path, sizeof path);
    return length > 4 && std::string_view(path, static_cast<size_t>(length)).ends_with(".cpt");
  }
  static ssize_t fails(int with) {
    errno = with;
    return -1;
  }

  static int openat(int folder, const char* name, int flags, mode_t mode) {
    {
      std::unique_lock lock(mutex);
      turned.wait(lock, [] { return !openClosed; });
      if (clumsiness != 0 && random.below(clumsiness) == 0) return static_cast<int>(fails(EINTR));
    }
    const int error = beforeOpen ? beforeOpen(name) : 0;
    return error != 0 ? static_cast<int>(fails(error)) : ::openat(folder, name, flags, mode);
  }
  static ssize_t pwritev(int fd, const iovec* pieces, int count, off_t offset) {
    std::unique_lock lock(mutex);
    turned.wait(lock, [] { return !closed; });
    if (writeDelayMs != 0) {
      lock.unlock();
      std::this_thread::sleep_for(std::chrono::milliseconds(writeDelayMs));
      lock.lock();
    }
    writes++;
    size_t length = 0;
    for (int i = 0; i < count; i++) length += pieces[i].iov_len;
    if (clumsiness != 0 && random.below(clumsiness) == 0) {
      if (random.below(2) == 0) return fails(EINTR);
      length = 1 + random.below(length);
    }
    const bool sidecar = isSidecar(fd);
    const int64_t limit = sidecar ? sidecarRoom : room;
    if (met && forGood) return fails(error);
    if (limit >= 0) {
      const int64_t left = limit - offset;
      if (left <= 0) {
        met = true;
        return fails(error);
      }
      length = std::min(length, static_cast<size_t>(left));
    }
    std::vector<iovec> cut;
    for (int i = 0; i < count && length != 0; i++) {
      cut.push_back({pieces[i].iov_base, std::min(pieces[i].iov_len, length)});
      length -= cut.back().iov_len;
    }
    return ::pwritev(fd, cut.data(), static_cast<int>(cut.size()), offset);
  }
  static int fdatasync(int fd) {
    syncs++;
    if (syncError != 0 && !isSidecar(fd)) return static_cast<int>(fails(syncError));
    return ::fdatasync(fd);
  }
  static int fsync(int fd) {
    folderSyncs++;
    return ::fsync(fd);
  }
  static int fallocate(int fd, int mode, off_t offset, off_t length) {
    const std::lock_guard lock(mutex);
    if (!reserves) return static_cast<int>(fails(EOPNOTSUPP));
    if ((mode & FALLOC_FL_PUNCH_HOLE) == 0) {
      reserved.insert(fd);
    } else {
      CHECK(reserved.erase(fd) == 1);
      if (room >= 0) room += length;
    }
    return ::fallocate(fd, mode, offset, length);
  }

  static constexpr Disk functions() { return {openat, pwritev, fdatasync, fsync, ::ftruncate, fallocate}; }
};
inline const Disk faultyDisk = FaultyDisk::functions();

struct Block {
  uint16_t type, flags;
  uint64_t timeMs;
  std::string data;
  size_t offset;
};

// Reads whole blocks from the front of any bytes, up to the first thing that is none; returns how far they go.
inline size_t readWholeBlocks(std::string_view file, std::vector<Block>& blocks) {
  size_t at = 0;
  uint64_t lastMs = 0;
  while (file.size() - at >= kBlockHeaderBytes) {
    const char* header = file.data() + at;
    const auto type = loadBig<uint16_t>(header);
    const auto size = loadBig<uint32_t>(header + 4);
    const auto timeMs = loadBig<uint64_t>(header + 8);
    if (type < 1 || type > 4 || size == 0 || size > file.size() - at - kBlockHeaderBytes) break;
    if (timeMs >> 48 != 0 || timeMs < lastMs) break;
    lastMs = timeMs;
    blocks.push_back({type, loadBig<uint16_t>(header + 2), timeMs,
                      std::string(file.substr(at + kBlockHeaderBytes, size)), at});
    at += kBlockHeaderBytes + size;
  }
  return at;
}

// Reads a file of whole blocks and nothing else.
inline std::vector<Block> readBlocks(std::string_view file) {
  std::vector<Block> blocks;
  CHECK_EQ(readWholeBlocks(file, blocks), file.size());
  return blocks;
}

// Whether a file ends as players want it [M3].
inline bool hasEnd(std::string_view file) {
  return file.size() >= kEndBlockBytes && file.ends_with("MeshCentralMCREC") &&
         file.substr(file.size() - 32, 8) == std::string_view("\0\3\0\0\0\0\0\x10", 8);
}

struct SidecarRecord {
  uint64_t micros;
  uint32_t number, size, crc;
};

// Reads a sidecar's header and records from the front of any bytes, up to the first that does not check; returns how
// far they go.
inline size_t readSidecar(std::string_view sidecar, std::vector<SidecarRecord>& records) {
  if (sidecar.size() < kSidecarRecordBytes) return 0;
  if (sidecar.substr(0, 12) != std::string_view("MCRECCPT\0\1\0\x18", 12)) return 0;
  std::string covered(sidecar.substr(0, 12));
  covered += sidecar.substr(16, 8);
  if (loadBig<uint32_t>(sidecar.data() + 12) != crc32c(0, covered.data(), covered.size())) return 0;
  size_t at = kSidecarRecordBytes;
  for (; sidecar.size() - at >= kSidecarRecordBytes; at += kSidecarRecordBytes) {
    const char* record = sidecar.data() + at;
    if (loadBig<uint32_t>(record + 20) != crc32c(0, record, 20)) break;
    records.push_back({loadBig<uint64_t>(record), loadBig<uint32_t>(record + 8), loadBig<uint32_t>(record + 12),
                       loadBig<uint32_t>(record + 16)});
  }
  return at;
}

// Checks a sidecar against its recording: a record for each header and data block, or (`partly`) for the first ones.
// Returns the arrival times in microseconds.
inline std::vector<uint64_t> checkSidecar(std::string_view sidecar, const std::vector<Block>& blocks,
                                          bool partly = false) {
  std::vector<uint64_t> times;
  if (sidecar.empty() && partly) return times;
  std::vector<SidecarRecord> records;
  CHECK_EQ(readSidecar(sidecar, records), sidecar.size());
  uint32_t number = 0;
  for (const Block& block : blocks) {
    const uint32_t index = number++;
    if (block.type > 2) continue;
    if (partly && times.size() == records.size()) return times;
    CHECK(times.size() < records.size());
    const SidecarRecord& record = records[times.size()];
    CHECK_EQ(record.number, index);
    CHECK_EQ(record.size, block.data.size());
    CHECK_EQ(record.crc, crc32c(0, block.data.data(), block.data.size()));
    times.push_back(record.micros);
    CHECK_EQ(record.micros / 1000, block.timeMs);
    if (times.size() > 1) CHECK(record.micros >= times[times.size() - 2]);
  }
  CHECK_EQ(times.size(), records.size());
  return times;
}

// A recorder whose events can be waited for.
class Recorded {
 public:
  explicit Recorded(const ClockSource& clock = systemClock, const Disk& disk = faultyDisk)
      : recorder([this] { notify(); }, clock, disk) {}

  // Waits until `done`, which is asked again whenever there are events.
  template <class Done>
  void waitUntil(Done done) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    while (!done()) {
      std::unique_lock lock(mutex_);
      if (!woken_) CHECK(turned_.wait_until(lock, deadline) == std::cv_status::no_timeout || woken_);
      woken_ = false;
    }
  }
  // Waits for an event of a kind, of a recording or of any; others are kept for later.
  RecorderEvent wait(RecorderEventKind kind, uint32_t handle = UINT32_MAX) {
    std::unique_ptr<RecorderEvent> event;
    waitUntil([&] { return (event = take(kind, handle)) != nullptr; });
    return *event;
  }
  std::unique_ptr<RecorderEvent> take(RecorderEventKind kind, uint32_t handle = UINT32_MAX) {
    recorder.dispatch([this](const RecorderEvent& event) { kept_.push_back(event); });
    for (auto at = kept_.begin(); at != kept_.end(); ++at) {
      if (at->kind != kind || (handle != UINT32_MAX && at->handle != handle)) continue;
      auto event = std::make_unique<RecorderEvent>(*at);
      kept_.erase(at);
      return event;
    }
    return nullptr;
  }
  // Waits until nothing is queued. What the event loop put in just when the writer gave a file up is thrown away when
  // the writer looks at that file again, which close() asks for: after `closed`, and without an event.
  void waitUntilEmpty() {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    while (recorder.statistics().queueBytes != 0) {
      CHECK(std::chrono::steady_clock::now() < deadline);
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }
  Recording* open(const TemporaryFolder& folder, const std::string& name, const RecordingOptions& options = {}) {
    int error = 0;
    Recording* recording = recorder.open(folder.path(), name, options, error);
    CHECK_EQ(error, 0);
    CHECK(recording != nullptr);
    return recording;
  }

 private:
  void notify() {
    const std::lock_guard lock(mutex_);
    woken_ = true;
    turned_.notify_all();
  }
  std::mutex mutex_;
  std::condition_variable turned_;
  bool woken_ = false;
  std::vector<RecorderEvent> kept_;

 public:
  Recorder recorder;  // last: its threads call notify()
};

}  // namespace couplet::test
