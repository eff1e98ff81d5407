// Bytes on their way from the event loop to a file: a list of chunks with one thread that puts bytes in and one that
// takes them out, and no lock. The putting thread fills chunks and then publishes how many bytes there are; the taking
// thread reads no byte, no `next` and no chunk beyond what is published. A chunk is given back by the taking thread
// when it moves on to the next one, so that the last chunk is never shared with a pool.
#pragma once

#include <sys/uio.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>

namespace couplet {

struct Chunk {
  Chunk* next = nullptr;
  uint32_t capacity = 0;
  // Where the chunk's bytes end: its capacity, until the putting thread leaves it early. The taking thread may read
  // either value while nothing beyond the chunk is published; both lead it to the same bytes.
  std::atomic<uint32_t> end{0};
  char* data() { return reinterpret_cast<char*>(this + 1); }
};

// Chunks of two sizes: files with little to write, which are most of them, hold a small one. With much to write, fewer
// chunks are fewer waits for memory, as a chunk that has been through the writer is in no cache any more.
class ChunkPool {
 public:
  static constexpr uint32_t kSmallBytes = 4096 - sizeof(Chunk);
  static constexpr uint32_t kLargeBytes = 65536 - sizeof(Chunk);
  // From so many bytes on, waiting or at once, a large one is taken.
  static constexpr uint32_t kManyBytes = 4 * kSmallBytes;

  ChunkPool() = default;
  ChunkPool(const ChunkPool&) = delete;
  ChunkPool& operator=(const ChunkPool&) = delete;
  ~ChunkPool() {
    for (Size& size : sizes_) {
      freeAll(size.ready);
      freeAll(size.returned.load(std::memory_order_acquire));
    }
  }

  // On the event loop's thread only.
  Chunk* take(bool large) {
    Size& size = sizes_[large];
    // What the writer gave back last comes first: those few chunks go round in the processor's caches. Taken in turn,
    // all that the pool keeps would, which is more than a cache holds (64 KiB messages
    // after a burst that filled the pool: 7.9 µs instead of 8.2).
    if (size.returned.load(std::memory_order_relaxed) != nullptr) {
      Chunk* const fresh = size.returned.exchange(nullptr, std::memory_order_acquire);
      Chunk* last = fresh;
      while (last->next != nullptr) last = last->next;
      last->next = size.ready;
      size.ready = fresh;
    }
    Chunk* chunk = size.ready;
    if (chunk != nullptr) {
      size.ready = chunk->next;
      __builtin_prefetch(size.ready);  // it went through the writer, and this thread's caches have lost it
      size.count.fetch_sub(1, std::memory_order_relaxed);
    } else {
      const uint32_t capacity = large ? kLargeBytes : kSmallBytes;
      void* memory = malloc(sizeof(Chunk) + capacity);
      if (memory == nullptr) abort();  // as operator new would: no byte may be dropped instead
      chunk = new (memory) Chunk;
      chunk->capacity = capacity;
    }
    chunk->next = nullptr;
    chunk->end.store(chunk->capacity, std::memory_order_relaxed);
    return chunk;
  }

  // On any thread.
  void give(Chunk* chunk) {
    const bool large = chunk->capacity == kLargeBytes;
    Size& size = sizes_[large];
    if (size.count.load(std::memory_order_relaxed) >= (large ? kKeptLarge : kKeptSmall)) {
      free(chunk);
      return;
    }
    size.count.fetch_add(1, std::memory_order_relaxed);
    chunk->next = size.returned.load(std::memory_order_relaxed);
    // `returned` is only ever emptied as a whole, so a chunk that comes and goes meanwhile does no harm.
    while (!size.returned.compare_exchange_weak(chunk->next, chunk, std::memory_order_release,
                                                std::memory_order_relaxed)) {
    }
  }
  void giveAll(Chunk* chunk) {
    while (chunk != nullptr) {
      Chunk* next = chunk->next;
      give(chunk);
      chunk = next;
    }
  }

 private:
  static constexpr size_t kKeptSmall = 2048;
  static constexpr size_t kKeptLarge = 256;
  struct Size {
    Chunk* ready = nullptr;
    alignas(64) std::atomic<Chunk*> returned{nullptr};
    std::atomic<size_t> count{0};
  };
  static void freeAll(Chunk* chunk) {
    while (chunk != nullptr) {
      Chunk* next = chunk->next;
      free(chunk);
      chunk = next;
    }
  }
  Size sizes_[2];
};

// The putting side of a chunk list, also used alone to assemble a message.
class ChunkList {
 public:
  explicit ChunkList(ChunkPool& pool) : pool_(pool) {}
  ChunkList(const ChunkList&) = delete;
  ChunkList& operator=(const ChunkList&) = delete;

  Chunk* first() const { return first_; }
  uint64_t bytes() const { return bytes_; }

  // `length` bytes in one piece, at most a small chunk's; the caller fills them before it publishes.
  char* reserve(uint32_t length, bool large) {
    if (last_ == nullptr || last_->capacity - used_ < length) addChunk(large);
    char* at = last_->data() + used_;
    used_ += length;
    bytes_ += length;
    return at;
  }

  void copy(const char* data, size_t length, bool large) {
    bytes_ += length;
    while (length != 0) {
      if (last_ == nullptr || used_ == last_->capacity) addChunk(large || length > ChunkPool::kManyBytes);
      size_t step = last_->capacity - used_;
      if (step > length) step = length;
      memcpy(last_->data() + used_, data, step);
      used_ += static_cast<uint32_t>(step);
      data += step;
      length -= step;
    }
  }

  // Takes over all of another list's chunks without copying; that list is empty afterwards.
  void splice(ChunkList& other) {
    leaveLast();
    (last_ == nullptr ? first_ : last_->next) = other.first_;
    last_ = other.last_;
    used_ = other.used_;
    bytes_ += other.bytes_;
    other.forget();
  }

  void clear() {
    pool_.giveAll(first_);
    forget();
  }
  void forget() {
    first_ = last_ = nullptr;
    used_ = 0;
    bytes_ = 0;
  }

 private:
  void leaveLast() {
    if (last_ != nullptr && used_ != last_->capacity) last_->end.store(used_, std::memory_order_relaxed);
  }
  void addChunk(bool large) {
    leaveLast();
    Chunk* chunk = pool_.take(large);
    (last_ == nullptr ? first_ : last_->next) = chunk;
    last_ = chunk;
    used_ = 0;
  }

  ChunkPool& pool_;
  Chunk* first_ = nullptr;
  Chunk* last_ = nullptr;
  uint32_t used_ = 0;
  uint64_t bytes_ = 0;
};

class WriteQueue {
 public:
  explicit WriteQueue(ChunkPool& pool) : pool_(pool), list_(pool) {}
  WriteQueue(const WriteQueue&) = delete;
  WriteQueue& operator=(const WriteQueue&) = delete;
  // When neither thread uses it any more.
  ~WriteQueue() { pool_.giveAll(head_ != nullptr ? head_ : list_.first()); }

  // -- the putting thread --

  // What is put in through `list` is seen by the other thread after publish() only. Sequentially consistent, as the
  // caller goes on to ask whether the other thread is already about to look.
  ChunkList& list() { return list_; }
  void publish() { published_.store(list_.bytes(), std::memory_order_seq_cst); }
  // Bytes put in and not yet taken out.
  uint64_t backlog() const { return list_.bytes() - taken_.load(std::memory_order_relaxed); }

  // -- the taking thread --

  uint64_t published() const { return published_.load(std::memory_order_seq_cst); }
  // Readable on any thread.
  uint64_t taken() const { return taken_.load(std::memory_order_acquire); }

  // Describes the published bytes from where taking stands, up to `published` in all; returns the number of pieces.
  int gather(iovec* pieces, int maxPieces, uint64_t published, size_t& bytes) {
    uint64_t left = published - taken_.load(std::memory_order_relaxed);
    bytes = 0;
    if (left == 0) return 0;
    if (head_ == nullptr) head_ = list_.first();
    int count = 0;
    Chunk* chunk = head_;
    uint32_t at = offset_;
    while (left != 0 && count != maxPieces) {
      uint64_t here = chunk->end.load(std::memory_order_relaxed) - at;
      if (here > left) here = left;
      if (here != 0) {
        pieces[count++] = {chunk->data() + at, static_cast<size_t>(here)};
        left -= here;
        bytes += here;
      }
      if (left == 0) break;
      chunk = chunk->next;
      at = 0;
    }
    return count;
  }

  // Takes the first `bytes` of what was gathered.
  void take(size_t bytes) {
    size_t left = bytes;
    while (left != 0) {
      const size_t here = head_->end.load(std::memory_order_relaxed) - offset_;
      if (here >= left) {
        offset_ += static_cast<uint32_t>(left);
        break;
      }
      left -= here;
      Chunk* next = head_->next;
      pool_.give(head_);
      head_ = next;
      offset_ = 0;
    }
    taken_.store(taken_.load(std::memory_order_relaxed) + bytes, std::memory_order_release);
  }

 private:
  ChunkPool& pool_;
  ChunkList list_;
  alignas(64) std::atomic<uint64_t> published_{0};
  alignas(64) std::atomic<uint64_t> taken_{0};
  Chunk* head_ = nullptr;
  uint32_t offset_ = 0;
};

}  // namespace couplet
