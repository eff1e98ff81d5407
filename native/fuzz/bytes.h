// The fuzzer's bytes, taken from the front; where there are none left, zeros.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace couplet::fuzz {

class Bytes {
 public:
  Bytes(const uint8_t* data, size_t size) : data_(data), left_(size) {}
  bool empty() const { return left_ == 0; }
  uint8_t next() {
    if (left_ == 0) return 0;
    left_--;
    return *data_++;
  }
  std::string take(size_t length) {
    if (length > left_) length = left_;
    const std::string taken(reinterpret_cast<const char*>(data_), length);
    data_ += length;
    left_ -= length;
    return taken;
  }
  std::string rest() { return take(left_); }

 private:
  const uint8_t* data_;
  size_t left_;
};

}  // namespace couplet::fuzz
