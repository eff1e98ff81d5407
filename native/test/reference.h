// What FrameReader must do, said a second time and as simply as possible: a parser that sees the whole stream at once,
// and a follower of the frames that come out. Slow, allocating, and sharing nothing with frame.h but FrameError.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "../frame.h"
#include "frames.h"

namespace couplet::test {

struct Boundary {
  size_t outputBytes;  // what is out when it is reported
  bool messageEnd;
  bool operator==(const Boundary&) const = default;
};

struct Message {
  bool isBinary;
  std::string data;
  bool operator==(const Message&) const = default;
};

struct Parsed {
  std::string output;
  std::vector<std::string> pings;
  size_t pongs = 0;
  std::optional<std::string> close;
  FrameError error = FrameError::none;
  std::vector<Boundary> boundaries;
  uint64_t messages = 0, bytes = 0;
  std::vector<Message> payload;  // of all messages begun; the last one may not be whole
  bool inFrame = false, inMessage = false, atRest = true;
  uint64_t payloadLeft = 0, frameOutBytes = 0;  // of the frame begun; 0 where none is

  // Nothing is read after it.
  bool over() const { return error != FrameError::none || close.has_value(); }
};

// What is wrong with a whole header, if anything.
inline FrameError judge(uint8_t first, uint64_t length, bool fragmented, uint64_t messageBytes,
                        uint64_t maxMessageBytes) {
  const bool fin = first & 0x80;
  const uint8_t opcode = first & 15;
  if (first & 0x70) return FrameError::protocol;
  switch (opcode) {
    case 0:
      if (!fragmented) return FrameError::protocol;
      break;
    case 1:
    case 2:
      if (fragmented) return FrameError::protocol;
      break;
    case 8:
      if (length == 1) return FrameError::protocol;
      [[fallthrough]];
    case 9:
    case 10:
      return fin && length <= 125 ? FrameError::none : FrameError::protocol;
    default:
      return FrameError::protocol;
  }
  if (length >= uint64_t{1} << 63) return FrameError::protocol;
  if (maxMessageBytes != 0 && messageBytes + length > maxMessageBytes) return FrameError::tooBig;
  return FrameError::none;
}

// Whose frames come in, and for whom they go out.
struct Ways {
  bool fromServer = false;
  bool toServer = false;
};

// Reads a client's bytes, or those of a server, from the first one.
inline Parsed parseClientStream(std::string_view in, uint64_t maxMessageBytes, Ways ways = {}) {
  Parsed result;
  bool fragmented = false;
  uint64_t messageBytes = 0;
  while (!in.empty()) {
    result.atRest = false;
    if (in.size() < 2) break;
    const uint8_t first = static_cast<uint8_t>(in[0]);
    const uint8_t second = static_cast<uint8_t>(in[1]);
    if ((second >= 0x80) == ways.fromServer) {
      result.error = FrameError::protocol;
      break;
    }
    uint64_t length = second & 0x7f;
    const size_t extended = length == 126 ? 2 : length == 127 ? 8 : 0;
    const size_t header = 2 + extended + (ways.fromServer ? 0 : 4);
    if (in.size() < header) break;
    if (extended != 0) length = 0;
    for (size_t i = 0; i < extended; i++) length = length * 256 + static_cast<uint8_t>(in[2 + i]);
    result.error = judge(first, length, fragmented, messageBytes, maxMessageBytes);
    if (result.error != FrameError::none) break;

    const std::string_view rest = in.substr(header);
    const size_t here = length < rest.size() ? static_cast<size_t>(length) : rest.size();
    const std::string_view mask = ways.fromServer ? kZeroMask : in.substr(2 + extended, 4);
    std::string payload(rest.substr(0, here));
    for (size_t i = 0; i < here; i++) payload[i] = static_cast<char>(payload[i] ^ mask[i % 4]);
    const bool whole = here == length;
    in = rest.substr(here);

    if (first & 8) {
      if (!whole) break;
      result.atRest = !fragmented;
      if ((first & 15) == 9) result.pings.push_back(payload);
      if ((first & 15) == 10) result.pongs++;
      if ((first & 15) != 8) continue;
      result.close = payload;
      break;
    }
    const std::string outHeader = ways.toServer ? clientHeader(first, length, kZeroMask)
                                                : frameHeader(first, 0, length, Width::shortest);
    result.output += outHeader + payload;
    if (!fragmented) result.payload.push_back({(first & 15) == 2, {}});
    result.payload.back().data += payload;
    result.bytes += here;
    messageBytes += length;
    const bool fin = first & 0x80;
    if (!whole) {
      result.inFrame = true;
      result.payloadLeft = length - here;
      result.frameOutBytes = outHeader.size() + here;
      break;
    }
    fragmented = !fin;
    result.atRest = fin;
    if (fin) {
      result.messages++;
      messageBytes = 0;
    }
    result.boundaries.push_back({result.output.size(), fin});
  }
  result.inMessage = fragmented || result.inFrame;
  return result;
}

// Follows the relay's frames from the first one.
class ServerStream {
 public:
  explicit ServerStream(bool toServer) : toServer_(toServer) {}

  bool inFrame = false, inMessage = false;
  uint64_t payloadLeft = 0, frameBytes = 0;
  std::vector<size_t> ends;  // where frames ended, in bytes from the start

  void read(std::string_view bytes) {
    while (!bytes.empty()) {
      if (inFrame) {
        const size_t step = payloadLeft < bytes.size() ? static_cast<size_t>(payloadLeft) : bytes.size();
        bytes.remove_prefix(step);
        payloadLeft -= step;
        at_ += step;
        frameBytes += step;
      } else {
        header_.push_back(static_cast<uint8_t>(bytes[0]));
        bytes.remove_prefix(1);
        at_++;
        frameBytes++;
        if (!openFrame()) continue;
      }
      if (payloadLeft == 0) endFrame();
    }
  }

 private:
  bool toServer_;
  std::vector<uint8_t> header_;
  size_t at_ = 0;

  bool openFrame() {
    if (header_.size() < 2) return false;
    CHECK((header_[1] > 127) == toServer_);  // a server does not mask, a client does
    const uint8_t code = header_[1] & 127;
    const size_t extended = code == 126 ? 2 : code == 127 ? 8 : 0;
    const size_t mask = toServer_ ? 4 : 0;
    if (header_.size() < 2 + extended + mask) return false;
    for (size_t i = 0; i < mask; i++) CHECK_EQ(header_[2 + extended + i], 0);
    payloadLeft = extended == 0 ? code : 0;
    for (size_t i = 0; i < extended; i++) payloadLeft = payloadLeft * 256 + header_[2 + i];
    inFrame = inMessage = true;
    return true;
  }

  void endFrame() {
    inMessage = !(header_[0] & 0x80);
    inFrame = false;
    header_.clear();
    frameBytes = 0;
    ends.push_back(at_);
  }
};

}  // namespace couplet::test
