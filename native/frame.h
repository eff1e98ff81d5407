// WebSocket frames (RFC 6455) as the relay needs them: client frames come in, server frames go out. Of a link to
// another server this one is the client: there it is server frames that come in, or client frames that go out.
//
// FrameReader turns a stream of client (masked) frames, split anywhere, into the same frames as a server sends them
// (unmasked), in place: a server header is four bytes shorter than the client's, so the rewritten frames move towards
// the front of the buffer and a whole read leaves as one contiguous run. Payload is not kept: a frame's bytes go on as
// they arrive (cut-through). Frames for a server keep their four bytes, as a mask of zeros, which leaves the payload as
// it is. No allocation, no system call, no knowledge of sockets.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace couplet {

enum Opcode : uint8_t { kContinuation = 0, kText = 1, kBinary = 2, kClose = 8, kPing = 9, kPong = 10 };

enum class FrameError : uint8_t { none, protocol, tooBig };

constexpr size_t kMaxClientHeader = 14;
constexpr size_t kMaxServerHeader = 10;
constexpr size_t kMaxControlPayload = 125;

// Bytes that must be writable in front of the data given to FrameReader::feed: a header that began in an earlier read
// is written there. uSockets pads its receive buffer by 32.
constexpr size_t kFeedHeadroom = 16;

// Writes a server frame header to `out` (at least kMaxServerHeader bytes); returns its length: 2, 4 or 10.
inline size_t writeServerHeader(char* out, uint8_t firstByte, uint64_t length) {
  out[0] = static_cast<char>(firstByte);
  if (length < 126) {
    out[1] = static_cast<char>(length);
    return 2;
  }
  if (length <= 0xffff) {
    out[1] = 126;
    out[2] = static_cast<char>(length >> 8);
    out[3] = static_cast<char>(length);
    return 4;
  }
  out[1] = 127;
  for (int i = 0; i < 8; i++) out[2 + i] = static_cast<char>(length >> (56 - 8 * i));
  return 10;
}

inline size_t serverHeaderLength(uint64_t length) { return length < 126 ? 2 : length <= 0xffff ? 4 : 10; }

constexpr size_t kMaskBytes = 4;

// Writes a frame header to `out` (at least kMaxClientHeader bytes), for a server with a mask of zeros, under which the
// payload stands as it is; returns its length.
inline size_t writeHeader(char* out, uint8_t firstByte, uint64_t length, bool toServer) {
  const size_t size = writeServerHeader(out, firstByte, length);
  if (!toServer) return size;
  out[1] = static_cast<char>(out[1] | 0x80);
  memset(out + size, 0, kMaskBytes);
  return size + kMaskBytes;
}

// XORs n bytes of src with the repeating mask into dst. dst may be src, or lie anywhere before it and overlap it:
// every block is loaded whole before any of it is stored.
inline void unmask(char* dst, const char* src, size_t n, const uint8_t mask[4]) {
  typedef uint64_t Vector __attribute__((vector_size(16)));
  uint32_t word;
  memcpy(&word, mask, 4);
  const uint64_t wide = (static_cast<uint64_t>(word) << 32) | word;
  const Vector key = {wide, wide};
  size_t i = 0;
  for (; i + 64 <= n; i += 64) {
    Vector a, b, c, d;
    memcpy(&a, src + i, 16);
    memcpy(&b, src + i + 16, 16);
    memcpy(&c, src + i + 32, 16);
    memcpy(&d, src + i + 48, 16);
    a ^= key, b ^= key, c ^= key, d ^= key;
    memcpy(dst + i, &a, 16);
    memcpy(dst + i + 16, &b, 16);
    memcpy(dst + i + 32, &c, 16);
    memcpy(dst + i + 48, &d, 16);
  }
  for (; i + 8 <= n; i += 8) {
    uint64_t value;
    memcpy(&value, src + i, 8);
    value ^= wide;
    memcpy(dst + i, &value, 8);
  }
  for (; i < n; i++) dst[i] = static_cast<char>(src[i] ^ mask[i & 3]);
}

class FrameReader {
 public:
  // Largest message in bytes, fragments added up; 0: no limit. Checked on the header, before payload is taken.
  uint64_t maxMessageBytes = 0;
  // Set by the owner to be told about the next frame boundary (Sink::boundary); stays set until it is cleared.
  bool wantsBoundary = false;
  // Whether the frames come from a server, unmasked, and whether they go to one. Not both: they would grow.
  bool fromServer = false;
  bool toServer = false;

  // Whole data messages and their payload bytes read so far (bytes of an unfinished message included).
  uint64_t messages = 0;
  uint64_t bytes = 0;

  // True while a data frame's header was handed on and its payload is not complete.
  bool inFrame() const { return state_ == State::payload; }
  // True between the first and the last frame of a fragmented message, or inside any data frame.
  bool inMessage() const { return inFragments_ || inFrame(); }
  // True where a peer that stops here has broken off nothing it began.
  bool atRest() const { return state_ == State::header && headerHave_ == 0 && !inFragments_; }
  // Payload bytes of the unfinished frame that are still to come.
  uint64_t payloadLeft() const { return inFrame() ? payloadLeft_ : 0; }
  // Bytes of the unfinished frame already handed on, its header included; meaningful while inFrame().
  uint64_t frameOutBytes() const { return frameOut_; }

  // Reads `length` bytes at `data`, rewriting them in place. Sink:
  //   void output(char* run, size_t length)   rewritten frame bytes, in order; valid during the call only
  //   void ping(const char* payload, size_t length), void pong()
  //   void close(const char* payload, size_t length)   after it nothing is read any more
  //   void boundary(bool messageEnd)   with wantsBoundary: the run so far is out, a frame has just ended
  //   void payload(const char* data, size_t length, uint64_t left, bool isBinary, bool fin)   where the sink has it:
  //     bytes of a data frame of which `left` more are to come, before they go to output(). `isBinary` holds for a
  //     message's first frame, `fin`: the frame is its message's last
  // Every output handed on before an error or a close is valid. After an error the reader must not be fed again.
  template <class Sink>
  FrameError feed(char* data, size_t length, Sink& sink) {
    char* in = data;
    char* const end = data + length;
    char* run = nullptr;  // start of the rewritten bytes not handed on yet
    char* out = nullptr;  // where the next rewritten byte goes; never behind `in`
    auto flush = [&] {
      if (run != nullptr && out != run) sink.output(run, static_cast<size_t>(out - run));
      run = out = nullptr;
    };
    while (in != end) {
      if (state_ == State::header) {
        in += takeHeader(in, static_cast<size_t>(end - in));
        if (headerHave_ < headerNeed()) break;  // all input is in header_
        const FrameError error = openFrame();
        if (error != FrameError::none) {
          flush();
          return error;
        }
        if (state_ == State::payload) {
          const size_t size = serverHeaderLength(payloadLeft_) + (toServer ? kMaskBytes : 0);
          if (run == nullptr) run = out = in - size;
          out += writeHeader(out, firstByte_, payloadLeft_, toServer);
          frameOut_ = size;
        }
      }
      const size_t available = static_cast<size_t>(end - in);
      const size_t take = payloadLeft_ < available ? static_cast<size_t>(payloadLeft_) : available;
      if (state_ == State::control) {
        unmask(control_ + controlHave_, in, take, mask_);
        controlHave_ += static_cast<uint8_t>(take);
      } else {
        if (run == nullptr) run = out = in;
        if (isPlain_) {
          if (out != in) memmove(out, in, take);
        } else {
          unmask(out, in, take, mask_);
        }
        out += take;
        bytes += take;
        frameOut_ += take;
      }
      in += take;
      payloadLeft_ -= take;
      if constexpr (requires { sink.payload(out, take, payloadLeft_, true, true); }) {
        if (state_ == State::payload && (take != 0 || payloadLeft_ == 0)) {
          sink.payload(out - take, take, payloadLeft_, opcode_ == kBinary, (firstByte_ & 0x80) != 0);
        }
      }
      if (payloadLeft_ != 0) {
        rotateMask(take & 3);
        break;  // the input is used up
      }
      const bool control = state_ == State::control;
      state_ = State::header;
      headerHave_ = 0;
      if (control) {
        if (opcode_ == kClose) {
          flush();
          sink.close(control_, controlHave_);
          return FrameError::none;
        }
        if (opcode_ == kPing) sink.ping(control_, controlHave_);
        if (opcode_ == kPong) sink.pong();
      } else {
        const bool fin = (firstByte_ & 0x80) != 0;
        inFragments_ = !fin;
        if (fin) {
          messages++;
          messageBytes_ = 0;
        }
        if (wantsBoundary) {
          flush();
          sink.boundary(fin);
        }
      }
    }
    flush();
    return FrameError::none;
  }

 private:
  enum class State : uint8_t { header, payload, control };

  size_t headerNeed() const {
    if (headerHave_ < 2) return 2;
    const uint8_t code = static_cast<uint8_t>(header_[1]) & 0x7f;
    const size_t extended = code == 126 ? 2 : code == 127 ? 8 : 0;
    return 2 + extended + (fromServer ? 0 : kMaskBytes);
  }

  // Copies header bytes until the header is whole or the input ends; returns how many were taken.
  size_t takeHeader(const char* in, size_t available) {
    size_t taken = 0;
    while (headerHave_ < headerNeed() && taken < available) {
      size_t wanted = headerNeed() - headerHave_;
      if (wanted > available - taken) wanted = available - taken;
      memcpy(header_ + headerHave_, in + taken, wanted);
      headerHave_ += static_cast<uint8_t>(wanted);
      taken += wanted;
      // Masked or not as no valid frame is: do not wait for the rest of a header that is refused anyway.
      if (headerHave_ >= 2 && isWronglyMasked()) headerHave_ = static_cast<uint8_t>(headerNeed());
    }
    return taken;
  }

  bool isWronglyMasked() const { return ((header_[1] & 0x80) != 0) == fromServer; }

  // Checks a whole header and enters its payload state.
  FrameError openFrame() {
    firstByte_ = static_cast<uint8_t>(header_[0]);
    const uint8_t second = static_cast<uint8_t>(header_[1]);
    opcode_ = firstByte_ & 0x0f;
    const bool fin = (firstByte_ & 0x80) != 0;
    if ((firstByte_ & 0x70) != 0 || isWronglyMasked()) return FrameError::protocol;
    const uint8_t code = second & 0x7f;
    uint64_t length = code;
    size_t at = 2;
    if (code >= 126) {
      const size_t extended = code == 126 ? 2 : 8;
      length = 0;
      for (size_t i = 0; i < extended; i++) length = (length << 8) | static_cast<uint8_t>(header_[at + i]);
      at += extended;
    }
    if (!fromServer) memcpy(mask_, header_ + at, kMaskBytes);  // else it stays all zeros
    isPlain_ = (mask_[0] | mask_[1] | mask_[2] | mask_[3]) == 0;
    if (opcode_ >= kClose) {
      if (opcode_ > kPong || !fin || length > kMaxControlPayload) return FrameError::protocol;
      if (opcode_ == kClose && length == 1) return FrameError::protocol;
      state_ = State::control;
      controlHave_ = 0;
      payloadLeft_ = length;
      return FrameError::none;
    }
    if (opcode_ > kBinary || (opcode_ == kContinuation) != inFragments_) return FrameError::protocol;
    if (length >> 63) return FrameError::protocol;
    if (maxMessageBytes != 0 && length > maxMessageBytes - messageBytes_) return FrameError::tooBig;
    messageBytes_ += length;
    state_ = State::payload;
    payloadLeft_ = length;
    return FrameError::none;
  }

  void rotateMask(size_t by) {
    uint8_t turned[4];
    for (size_t i = 0; i < 4; i++) turned[i] = mask_[(i + by) & 3];
    memcpy(mask_, turned, 4);
  }

  State state_ = State::header;
  bool inFragments_ = false;
  uint8_t opcode_ = 0;
  uint8_t firstByte_ = 0;
  uint8_t headerHave_ = 0;
  uint8_t controlHave_ = 0;
  bool isPlain_ = false;  // the mask of the frame in hand is all zeros
  uint8_t mask_[kMaskBytes] = {0, 0, 0, 0};
  char header_[kMaxClientHeader];
  char control_[kMaxControlPayload];
  uint64_t payloadLeft_ = 0;
  uint64_t messageBytes_ = 0;
  uint64_t frameOut_ = 0;
};

// Follows frames, masked or not, as their bytes leave, split anywhere: tells whether the byte stream stands between two frames.
class FrameWalker {
 public:
  bool atBoundary() const { return headerHave_ == 0 && payloadLeft_ == 0; }

  // Passes over bytes; returns how many were passed: all, or (stopAtBoundary) those up to the next frame boundary.
  size_t walk(const char* data, size_t length, bool stopAtBoundary = false) {
    size_t i = 0;
    while (i < length) {
      if (stopAtBoundary && atBoundary() && i != 0) return i;
      if (payloadLeft_ != 0) {
        const uint64_t left = length - i;
        const uint64_t step = payloadLeft_ < left ? payloadLeft_ : left;
        payloadLeft_ -= step;
        i += static_cast<size_t>(step);
        continue;
      }
      header_[headerHave_++] = static_cast<uint8_t>(data[i++]);
      if (headerHave_ < 2) continue;
      const uint8_t code = header_[1] & 0x7f;
      const size_t extended = code == 126 ? 2 : code == 127 ? 8 : 0;
      if (headerHave_ < 2 + extended + ((header_[1] & 0x80) != 0 ? kMaskBytes : 0)) continue;
      uint64_t size = code;
      if (extended != 0) {
        size = 0;
        for (size_t k = 0; k < extended; k++) size = (size << 8) | header_[2 + k];
      }
      payloadLeft_ = size;
      headerHave_ = 0;
    }
    return i;
  }

  // The stream was written in full up to a place with `payloadLeft` bytes of a frame to come.
  void set(uint64_t payloadLeft) {
    payloadLeft_ = payloadLeft;
    headerHave_ = 0;
  }

 private:
  uint64_t payloadLeft_ = 0;
  uint8_t headerHave_ = 0;
  uint8_t header_[kMaxClientHeader];
};

}  // namespace couplet
