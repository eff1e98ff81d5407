// Frames for tests, made byte by byte with nothing of frame.h.
#pragma once

#include <string>
#include <string_view>

#include "check.h"

namespace couplet::test {

constexpr uint8_t kFin = 0x80;
constexpr uint8_t kMasked = 0x80;

// How a length is written: in 7, 16 or 64 bits.
enum class Width { shortest, bits16, bits64 };

inline std::string frameHeader(uint8_t first, uint8_t maskBit, uint64_t length, Width width) {
  std::string header(1, static_cast<char>(first));
  size_t extended = 0;
  if (width == Width::bits64 || length > 0xffff) {
    extended = 8;
  } else if (width == Width::bits16 || length > 125) {
    extended = 2;
  }
  const uint64_t code = extended == 8 ? 127 : extended == 2 ? 126 : length;
  header += static_cast<char>(maskBit | code);
  for (size_t i = extended; i > 0; i--) header += static_cast<char>((length >> (8 * (i - 1))) & 0xff);
  return header;
}

inline std::string clientHeader(uint8_t first, uint64_t length, std::string_view mask, Width width = Width::shortest) {
  return frameHeader(first, kMasked, length, width) + std::string(mask.substr(0, 4));
}

inline std::string clientFrame(uint8_t first, std::string_view payload, std::string_view mask = "\x37\xfa\x21\x3d",
                               Width width = Width::shortest) {
  std::string masked(payload);
  for (size_t i = 0; i < masked.size(); i++) masked[i] = static_cast<char>(masked[i] ^ mask[i % 4]);
  return clientHeader(first, payload.size(), mask, width) + masked;
}

inline std::string serverFrame(uint8_t first, std::string_view payload, Width width = Width::shortest) {
  return frameHeader(first, 0, payload.size(), width) + std::string(payload);
}

// The mask of a link's frames.
constexpr std::string_view kZeroMask("\0\0\0\0", 4);

// A stream of valid frames with every header width, fragments and control frames between them.
inline std::string sampleStream() {
  Random random(7);
  std::string stream;
  stream += clientFrame(kFin | 1, "Hello", random.bytes(4));
  stream += clientFrame(kFin | 2, "", random.bytes(4));
  stream += clientFrame(0x02, random.bytes(7), random.bytes(4), Width::bits64);
  stream += clientFrame(kFin | 9, "ping", random.bytes(4));
  stream += clientFrame(0x00, "", random.bytes(4));
  stream += clientFrame(kFin | 10, "", random.bytes(4));
  stream += clientFrame(kFin | 9, "", random.bytes(4));
  stream += clientFrame(kFin | 0, random.bytes(5), random.bytes(4), Width::bits16);
  stream += clientFrame(kFin | 1, random.bytes(130), random.bytes(4));
  stream += clientFrame(kFin | 10, random.bytes(9), random.bytes(4));
  stream += clientFrame(kFin | 2, random.bytes(3), random.bytes(4));
  stream += clientFrame(kFin | 8, "\x03\xe8 bye", random.bytes(4));
  return stream;
}

}  // namespace couplet::test
