// Bytes that wait for a socket to become writable: a list of 64 KiB chunks, recycled between queues.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace couplet {

class OutQueue {
 public:
  OutQueue() = default;
  OutQueue(const OutQueue&) = delete;
  OutQueue& operator=(const OutQueue&) = delete;
  ~OutQueue() { truncate(0); }

  size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }

  void append(const char* data, size_t length);
  // The first contiguous bytes; empty where the queue is. The same bytes come first, and at least as many, until
  // they are consumed: a TLS write that failed is repeated with them.
  std::string_view front() const;
  void consume(size_t length);
  // Drops bytes from the tail until `size` are left.
  void truncate(size_t size);

  // Calls visit(data, length) for each contiguous piece from the front; visit returns false to stop.
  template <class Visit>
  void forEach(Visit visit) const {
    for (Chunk* chunk = first_; chunk != nullptr; chunk = chunk->next) {
      if (!visit(chunk->data + chunk->head, static_cast<size_t>(chunk->tail - chunk->head))) return;
    }
  }

  // Bytes in all queues of the process.
  static size_t totalBytes;

 private:
  static constexpr size_t kChunkBytes = 65536;
  static constexpr size_t kRecycled = 128;
  struct Chunk {
    Chunk* next;
    uint32_t head, tail;
    char data[kChunkBytes];
  };
  static Chunk* takeChunk();
  static void giveChunk(Chunk* chunk);
  static Chunk* recycled_;
  static size_t recycledCount_;

  Chunk* first_ = nullptr;
  Chunk* last_ = nullptr;
  size_t size_ = 0;
};

}  // namespace couplet
