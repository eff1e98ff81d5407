// Writes the fuzzers' first inputs to the folders named: frame streams that reach every state, and recordings and
// scripts of such, so that they start from there.
#include <filesystem>
#include <fstream>

#include "../mcrec.h"
#include "fuzz_input.h"

using namespace couplet;
using namespace couplet::fuzz;

namespace {

std::string step(uint8_t length, uint8_t first, uint8_t variant, std::string_view more = {}) {
  for (uint8_t i = 0; i < 16; i++) {
    if (kFirstBytes[i] != first) continue;
    const char code[2] = {static_cast<char>(length << 4 | i), static_cast<char>(variant)};
    return std::string(code, 2).append(more);
  }
  abort();
}

class Folder {
 public:
  explicit Folder(const char* path) : path_(path) { std::filesystem::create_directories(path_); }
  void write(const std::string& input) {
    std::ofstream file(path_ / ("seed-" + std::to_string(count_++)), std::ios::binary);
    file << input;
    if (file.flush()) return;
    fprintf(stderr, "cannot write the seeds to %s\n", path_.c_str());
    exit(1);
  }
  size_t count() const { return count_; }
  ~Folder() { printf("%zu seeds in %s\n", count_, path_.c_str()); }

 private:
  const std::filesystem::path path_;
  size_t count_ = 0;
};

// See recorder_fuzz.cc and recorder_script.h.
void writeRecordings(Folder folder) {
  std::string file, sidecar(kSidecarRecordBytes, '\0');
  storeSidecarHeader(sidecar.data(), 1'700'000'000'000'000'000);
  for (uint16_t i = 0; i < 4; i++) {
    const std::string data(i * 5 + 1u, 'x');
    char header[kBlockHeaderBytes], record[kSidecarRecordBytes];
    storeBlockHeader(header, i == 0 ? kHeaderBlock : kDataBlock, i, static_cast<uint32_t>(data.size()), i);
    file.append(header, sizeof header).append(data);
    storeSidecarRecord(record, i, i, static_cast<uint32_t>(data.size()), crc32c(0, data.data(), data.size()));
    sidecar.append(record, sizeof record);
  }
  char end[kEndBlockBytes];
  storeEndBlock(end, 9'000'000);
  for (const char cut : {'\0', '\x20', '\x41'}) {
    folder.write(std::string("\1\0", 2) + cut + file);
    folder.write(std::string("\1\0", 2) + cut + file + std::string(end, sizeof end));
    folder.write(std::string("\2\0", 2) + cut + sidecar);
  }
  // Two sessions, each with options and two bytes of room: messages of some lengths, pieces, waits, and an end.
  const std::string steps("\x20\x0a\x05\x85\x00\x0c\x01\x10\x48\x10\x18\x01\xc4\x14\x11\x3f\x19\x40\x00\x00\xb0\x1c\x09\x07", 24);
  for (const int options : {0x02, 0x03, 0x04, 0x08, 0x12, 0x13, 0x14, 0x32, 0x52, 0x80, 0x92, 0xb2, 0xd3}) {
    for (const char room : {'\0', '\1', '\x2a'}) {
      const std::string session = {static_cast<char>(options), room, static_cast<char>(room + options), '\x18'};
      folder.write(std::string("\0\0\x21", 3) + static_cast<char>(1 | (options & 3) << 2) + session + session + steps + steps);
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    fprintf(stderr, "usage: %s <folder for frames> <folder for recordings>\n", argv[0]);
    return 2;
  }
  const std::string declared("\x00\x00\x00\x01\x00\x00\x00\x00", 8), topBit("\x80\0\0\0\0\0\0\1", 8);
  const std::string fragments = step(kTwo, 0x02, 5) + step(kOne, 0x89, 6) + step(kEmpty, 0x00, 7) +
                                step(kTwo, 0x8a, 8) + step(kByteLength, 0x80, 9, "\x21");
  std::vector<std::string> programs = {
      step(kOne, 0x81, 1) + step(kEmpty, 0x82, 2) + step(k125, 0x82, 3) + step(k126, 0x81, 4) + step(k127, 0x82, 5),
      fragments + fragments + step(kTwo, 0x88, 3),
      step(kPadded16, 0x82, 7, "\x05") + step(kPadded64, 0x82, 8, "\x06") + step(kPadded64, 0x89, 9, "\x7d"),
      step(kLong, 0x82, 1, "\xa5") + step(kOne, 0x81, 2),
      step(kLong, 0x82, 3, "\x5a") + step(kOne, 0x81, 4) + step(kUnfinished, 0x89, 1, "\x03"),
      step(kWordLength, 0x82, 9, "\x34\x12") + fragments,
      step(kOne, 0x81, 1) + step(kDeclared, 0x82, 2, declared) + step(kRaw, 0x81, 9, "some data"),
      step(kOne, 0x81, 1) + step(kDeclared, 0x82, 2, topBit),
      fragments + step(kTwo, 0x02, 1) + step(kOne, 0x81, 2),
      fragments + step(kOne, 0x88, 2),
      fragments + step(kEmpty, 0x88, 2) + step(kOne, 0x81, 2),
      step(kTwo, 0x81, 2) + step(kEmpty, 0x80, 2),
      fragments + step(kWronglyMasked, 0x81, 2, "\x03"),
      fragments + step(k126, 0x89, 2),
      fragments + step(k125, 0x8a, 2) + step(kCut, 0x82, 3, "\x05\x09"),
  };
  for (const uint8_t first : {0x08, 0x83, 0x90, 0xc2, 0xa1, 0x0f, 0x09}) {
    programs.push_back(fragments + step(kTwo, first, 4));
  }

  const std::vector<std::string> splits = {{}, "\x01", "\x03\x05\x02", "\x07\xe8", "\x40\x01\xff"};
  Folder folder(argv[1]);
  for (const std::string& program : programs) {
    for (const std::string& split : splits) {
      // The settings differ from input to input, so that each meets several streams.
      const uint8_t settings = static_cast<uint8_t>((folder.count() * 2) & (kBoundaries | kLimit | kFromServer | kToServer));
      std::string head(1, static_cast<char>(settings | kProgram));
      if (settings & kLimit) head += folder.count() % 3 == 0 ? std::string("\x22\x00", 2) : std::string("\xff\xff", 2);
      head += static_cast<char>(split.size());
      const std::string input = head + split + program;
      folder.write(input);
      // The same stream as it is, where that is short.
      const Input read(reinterpret_cast<const uint8_t*>(input.data()), input.size());
      head[0] = static_cast<char>(settings);
      if (read.stream.size() <= 1024) folder.write(head + split + read.stream);
    }
  }
  writeRecordings(Folder(argv[2]));
}
