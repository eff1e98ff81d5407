// What the writer does with one recording: takes queued bytes, writes them with few large calls, and ends files.
#include <fcntl.h>
#include <unistd.h>

#include <cerrno>

#include "recorder_lane.h"

namespace couplet {

namespace {

constexpr int kMaxPieces = 64;  // some megabytes in large chunks
// Where writes to a busy file end: a page cache of large pages (tmpfs, XFS, ext4) takes an even write into few of them,
// and an odd one into small ones at both of its ends (64 KiB messages cost 7.8 µs to record instead of 9.9, of
// which the write itself takes 3.3 and 4.6).
constexpr uint64_t kEvenBytes = 64 << 10;
// A file's reserve: room for its end block that a full disk has no claim on, allocated far beyond any file's end (its
// length does not change by it) and given back at the end.
constexpr off_t kReserveAt = off_t{1} << 40;
constexpr off_t kReserveBytes = 8192;

}  // namespace

// Writes all that was published when called. Where it is asked for by flushBytes alone (not `all`), up to a multiple of
// kEvenBytes, or nothing where it came here again while it was being written: what is left waits for more, or its age.
// False where that failed and the recording has ended.
bool Lane::writeQueued(Recording& recording, bool all) {
  WriteQueue& queue = recording.queue_;
  uint64_t target = queue.published();
  if (!all) {
    const uint64_t flushBytes = recorder_.flushBytes_.load();
    if (target - queue.taken() < flushBytes) return true;
    if (flushBytes >= 4 * kEvenBytes) target -= target % kEvenBytes;  // else it would be much of what is asked for
  }
  if (target != 0 && !recording.begun_) begin(recording);
  while (queue.taken() != target) {
    const uint64_t offset = queue.taken();
    iovec pieces[kMaxPieces];
    size_t bytes = 0;
    int count = queue.gather(pieces, kMaxPieces, target, bytes);
    walk(recording, pieces, count, bytes, offset);
    if (bytes == 0) break;  // the beginning of a header is left
    size_t written = 0;
    const int error = writeAll(recording.fd_, pieces, count, offset, written, true);
    recorder_.bytesWritten_.fetch_add(written, std::memory_order_relaxed);
    for (auto block = walked_.rbegin(); block != walked_.rend(); ++block) {
      if (block->end > offset + written) continue;
      recording.wholeBytes_.store(block->end, std::memory_order_release);
      break;
    }
    if (recording.sidecarFd_ >= 0) writeSidecar(recording, offset + written);
    if (error != 0) {
      fail(recording, error);
      return false;
    }
    queue.take(bytes);
    retire(recording, bytes);
  }
  return true;
}

void Lane::begin(Recording& recording) {
  recording.begun_ = true;
  if (recording.options_.lines) return;  // whole lines are a valid file
  // Not every file system can; then the end block takes its chance when the disk is full.
  recording.hasReserve_ =
      disk_.fallocate(recording.fd_, FALLOC_FL_KEEP_SIZE, kReserveAt, kReserveBytes) == 0;
}

// Goes over bytes about to be written, which start where the last walk ended: notes where blocks end and what the
// sidecar will say of them, and gives them the headers that they have in the file. No header is split between pieces;
// one that is cut by the end of the last one is left out of it.
void Lane::walk(Recording& recording, iovec* pieces, int& count, size_t& bytes, uint64_t offset) {
  walked_.clear();
  for (int i = 0; i < count; i++) {
    char* at = static_cast<char*>(pieces[i].iov_base);
    char* const end = at + pieces[i].iov_len;
    if (recording.options_.lines) {
      for (char* from = at;; from++) {
        from = static_cast<char*>(memchr(from, '\n', static_cast<size_t>(end - from)));
        if (from == nullptr) break;
        walked_.push_back({offset + static_cast<uint64_t>(from + 1 - at), 0, 0, 0, 0, false});
      }
      offset += pieces[i].iov_len;
      continue;
    }
    while (at != end) {
      if (recording.dataLeft_ == 0) {
        if (const auto cut = static_cast<size_t>(end - at); cut < kBlockHeaderBytes) {
          pieces[i].iov_len -= cut;
          bytes -= cut;
          count = pieces[i].iov_len == 0 ? i : i + 1;
          return;
        }
        QueuedHeader& block = recording.block_;
        memcpy(&block, at, sizeof block);
        storeBlockHeader(at, block.type, block.flags, block.size, block.micros / 1000);
        recording.dataLeft_ = block.size;
        at += kBlockHeaderBytes;
        offset += kBlockHeaderBytes;
        continue;
      }
      size_t here = static_cast<size_t>(end - at);
      if (here > recording.dataLeft_) here = recording.dataLeft_;
      at += here;
      offset += here;
      recording.dataLeft_ -= static_cast<uint32_t>(here);
      if (recording.dataLeft_ != 0) continue;
      const QueuedHeader& block = recording.block_;
      walked_.push_back(
          {offset, block.micros, recording.blockNumber_++, block.size, block.crc, block.type != kEndBlock});
    }
  }
}

// Writes all the pieces, however little a call takes; an errno where it cannot. `written`: how far it came. Offsets
// are explicit, so that nothing is written twice or left out whatever a call did.
int Lane::writeAll(int fd, iovec* pieces, int count, uint64_t offset, size_t& written, bool measured) {
  written = 0;
  while (count != 0) {
    const int64_t start = nowNs();
    const ssize_t result = disk_.pwritev(fd, pieces, count, static_cast<off_t>(offset + written));
    const int error = errno;
    if (measured) recorder_.writeLatency_.add(nowNs() - start);
    if (result < 0) {
      if (error == EINTR) continue;
      return error;
    }
    if (result == 0) return EIO;  // says nothing, does nothing: it would never end
    written += static_cast<size_t>(result);
    auto left = static_cast<size_t>(result);
    while (count != 0 && left >= pieces->iov_len) {
      left -= pieces->iov_len;
      pieces++;
      count--;
    }
    if (left != 0) {
      pieces->iov_base = static_cast<char*>(pieces->iov_base) + left;
      pieces->iov_len -= left;
    }
  }
  return 0;
}

// Writes the sidecar's records of those walked blocks that end up to `upTo` in the file.
void Lane::writeSidecar(Recording& recording, uint64_t upTo) {
  records_.clear();
  if (recording.sidecarBytes_ == 0) {
    records_.resize(kSidecarRecordBytes);
    storeSidecarHeader(records_.data(), recording.clock_.startNs());
  }
  for (const WalkedBlock& block : walked_) {
    if (block.end > upTo) break;
    if (!block.hasRecord) continue;
    records_.resize(records_.size() + kSidecarRecordBytes);
    storeSidecarRecord(records_.data() + records_.size() - kSidecarRecordBytes, block.micros, block.number, block.size,
                       block.crc);
  }
  if (records_.empty()) return;
  iovec piece = {records_.data(), records_.size()};
  size_t written = 0;
  const int error = writeAll(recording.sidecarFd_, &piece, 1, recording.sidecarBytes_, written, false);
  recording.sidecarBytes_ += written;
  if (error != 0) endSidecar(recording, error);
}

// The recording goes on without its sidecar.
void Lane::endSidecar(Recording& recording, int error) {
  const auto whole = static_cast<off_t>(recording.sidecarBytes_ - recording.sidecarBytes_ % kSidecarRecordBytes);
  // Where it cannot be cut, its last record does not check, which readers must expect anyway.
  static_cast<void>(disk_.ftruncate(recording.sidecarFd_, whole));
  ::close(recording.sidecarFd_);
  recording.sidecarFd_ = -1;
  recorder_.countFailure(error);
  recorder_.tell({.kind = RecorderEventKind::failed,
                  .handle = recording.handle_,
                  .error = error,
                  .complete = true,
                  .file = recording.name_ + ".cpt"});
}

// Ends a recording at a disk's error: its whole blocks stay, and an end block follows them where the disk can take
// it. It goes over what stands there first, as that room is the file's already; then the reserve is given back for it.
void Lane::fail(Recording& recording, int error) {
  recording.stopped_.store(true, std::memory_order_release);
  if (!recording.failureTold_.exchange(true)) {
    recorder_.countFailure(error);
    recorder_.tell({.kind = RecorderEventKind::failed,
                    .handle = recording.handle_,
                    .error = error,
                    .file = recording.name_});
  }
  const uint64_t whole = recording.wholeBytes_.load();
  bool complete = recording.options_.lines;
  uint64_t length = whole;
  if (!recording.options_.lines && whole != 0) {
    char block[kEndBlockBytes];
    storeEndBlock(block, recording.clock_.wallNs(recording.clock_.monotonicNs()));
    for (int attempt = 0; attempt < 2 && !complete; attempt++) {
      if (attempt == 1) {
        if (!recording.hasReserve_) break;
        recording.hasReserve_ = false;
        disk_.fallocate(recording.fd_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, kReserveAt, kReserveBytes);
      }
      iovec piece = {block, sizeof block};
      size_t written = 0;
      complete = writeAll(recording.fd_, &piece, 1, whole, written, false) == 0;
    }
    if (complete) length += kEndBlockBytes;
  }
  if (disk_.ftruncate(recording.fd_, static_cast<off_t>(length)) != 0) complete = false;
  recording.wholeBytes_.store(length);
  discard(recording);
  finish(recording, complete);
}

void Lane::discard(Recording& recording) {
  WriteQueue& queue = recording.queue_;
  const uint64_t target = queue.published();
  while (queue.taken() != target) {
    iovec pieces[kMaxPieces];
    size_t bytes = 0;
    queue.gather(pieces, kMaxPieces, target, bytes);
    queue.take(bytes);
    retire(recording, bytes);
  }
}

void Lane::retire(Recording& recording, size_t bytes) {
  recorder_.retired_.fetch_add(bytes);
  recorder_.relieve(recording);
}

void Lane::finish(Recording& recording, bool complete) {
  recording.finished_ = true;
  // A file without a header is not a recording; one that never wrote has nothing to give back.
  recording.complete_ = complete && (recording.options_.lines || recording.wholeBytes_.load() != 0);
  if (recording.hasReserve_) {
    recording.hasReserve_ = false;
    // Where this fails the file keeps some room that it does not use; its content is right.
    disk_.fallocate(recording.fd_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, kReserveAt, kReserveBytes);
  }
  orderSync(recording, false, true);
}

}  // namespace couplet
