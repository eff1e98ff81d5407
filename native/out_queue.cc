#include "out_queue.h"

#include <cstdlib>
#include <cstring>
#include <new>

namespace couplet {

size_t OutQueue::totalBytes = 0;
OutQueue::Chunk* OutQueue::recycled_ = nullptr;
size_t OutQueue::recycledCount_ = 0;

OutQueue::Chunk* OutQueue::takeChunk() {
  Chunk* chunk = recycled_;
  if (chunk != nullptr) {
    recycled_ = chunk->next;
    recycledCount_--;
  } else {
    chunk = static_cast<Chunk*>(malloc(sizeof(Chunk)));
    if (chunk == nullptr) abort();  // as operator new would: no byte may be dropped instead
  }
  chunk->next = nullptr;
  chunk->head = chunk->tail = 0;
  return chunk;
}

void OutQueue::giveChunk(Chunk* chunk) {
  if (recycledCount_ == kRecycled) {
    free(chunk);
    return;
  }
  chunk->next = recycled_;
  recycled_ = chunk;
  recycledCount_++;
}

void OutQueue::append(const char* data, size_t length) {
  size_ += length;
  totalBytes += length;
  while (length != 0) {
    if (last_ == nullptr || last_->tail == kChunkBytes) {
      Chunk* chunk = takeChunk();
      (last_ == nullptr ? first_ : last_->next) = chunk;
      last_ = chunk;
    }
    size_t room = kChunkBytes - last_->tail;
    if (room > length) room = length;
    memcpy(last_->data + last_->tail, data, room);
    last_->tail += static_cast<uint32_t>(room);
    data += room;
    length -= room;
  }
}

std::string_view OutQueue::front() const {
  if (first_ == nullptr) return {};
  return {first_->data + first_->head, static_cast<size_t>(first_->tail - first_->head)};
}

void OutQueue::consume(size_t length) {
  size_ -= length;
  totalBytes -= length;
  while (length != 0) {
    const size_t here = first_->tail - first_->head;
    const size_t step = here < length ? here : length;
    first_->head += static_cast<uint32_t>(step);
    length -= step;
    if (first_->head != first_->tail) break;
    Chunk* done = first_;
    first_ = done->next;
    if (first_ == nullptr) last_ = nullptr;
    giveChunk(done);
  }
}

void OutQueue::truncate(size_t size) {
  if (size >= size_) return;
  totalBytes -= size_ - size;
  size_ = size;
  Chunk* chunk = first_;
  Chunk* kept = nullptr;
  while (chunk != nullptr && size != 0) {
    const size_t here = chunk->tail - chunk->head;
    const size_t keep = here < size ? here : size;
    chunk->tail = chunk->head + static_cast<uint32_t>(keep);
    size -= keep;
    kept = chunk;
    chunk = chunk->next;
  }
  if (kept == nullptr) {
    first_ = nullptr;
  } else {
    kept->next = nullptr;
  }
  last_ = kept;
  while (chunk != nullptr) {
    Chunk* next = chunk->next;
    giveChunk(chunk);
    chunk = next;
  }
}

}  // namespace couplet
