// Follows the records of a TLS stream by their headers alone, to find where the last whole one begins.
//
// µSockets drops what it has decrypted in a read when the same read ends with the peer's close_notify. Given to it in
// two calls, all but the last record first, nothing is dropped: a close_notify is always the last record.
#pragma once

#include <cstddef>
#include <cstdint>

namespace couplet {

class TlsRecords {
 public:
  // Passes over the next bytes of the stream. Returns where in them the last whole record begins; 0 where there is none
  // before which other bytes stand. The stream must be followed from a record's beginning on; where its headers make
  // no sense it was not, and nothing is found any more.
  size_t follow(const char* data, size_t length) {
    size_t lastStart = 0;
    size_t start = 0;
    size_t at = 0;
    while (at < length && !lost_) {
      if (left_ != 0) {
        const size_t step = left_ < length - at ? left_ : length - at;
        left_ -= step;
        at += step;
        if (left_ == 0) lastStart = start;
        continue;
      }
      if (headerHave_ == 0) start = at;
      header_[headerHave_++] = static_cast<uint8_t>(data[at++]);
      if (headerHave_ < kHeader) continue;
      headerHave_ = 0;
      left_ = static_cast<size_t>(header_[3]) << 8 | header_[4];
      lost_ = header_[0] < 20 || header_[0] > 23 || header_[1] != 3 || left_ == 0 || left_ > kMaxRecord;
    }
    return lost_ ? 0 : lastStart;
  }

 private:
  static constexpr size_t kHeader = 5;
  static constexpr size_t kMaxRecord = 16384 + 2048;
  size_t left_ = 0;
  uint8_t headerHave_ = 0;
  bool lost_ = false;
  uint8_t header_[kHeader];
};

}  // namespace couplet
