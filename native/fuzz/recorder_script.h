// A script for the recorder, read from the fuzzer's bytes, and what its files must be then.
//
//   byte     low two bits: how many recordings (1 to 3); next two: flushBytes
//   each     options (Options), then with a fault: two bytes of room for the recording; then for the sidecar
//   rest     steps: low two bits which recording, three bits what (Session::step), two bits the block's flags
#pragma once

#include "../test/recording_files.h"
#include "bytes.h"

namespace couplet::fuzz {

using namespace couplet::test;

// A disk of real files, whose faults go by the file.
struct Fault {
  int64_t room = -1;  // how many bytes fit before `error`; -1: all
  int error = ENOSPC;
  bool forGood = false;   // once met it stays, also for what would fit
  bool reserves = true;   // fallocate works, and gives that room back
  bool isClumsy = false;  // calls are short or interrupted
  Random random{0};
  bool met = false;
};

struct FuzzDisk {
  static inline std::mutex mutex;
  static inline std::map<std::string, Fault> byName;
  static inline std::map<int, Fault*> byFd;

  static int fails(int error) {
    errno = error;
    return -1;
  }
  static int openat(int folder, const char* name, int flags, mode_t mode) {
    const std::lock_guard lock(mutex);
    const int fd = ::openat(folder, name, flags, mode);
    if (fd >= 0 && (flags & O_CREAT) != 0) byFd[fd] = &byName.at(name);
    return fd;
  }
  static ssize_t pwritev(int fd, const iovec* pieces, int count, off_t offset) {
    const std::lock_guard lock(mutex);
    Fault& fault = *byFd.at(fd);
    size_t length = 0;
    for (int i = 0; i < count; i++) length += pieces[i].iov_len;
    CHECK(length != 0);
    if (fault.isClumsy && fault.random.below(3) == 0) {
      if (fault.random.below(2) == 0) return fails(EINTR);
      length = 1 + fault.random.below(length);
    }
    if (fault.room >= 0) {
      const int64_t left = fault.room - offset;
      if (left <= 0 || (fault.met && fault.forGood)) {
        fault.met = true;
        return fails(fault.error);
      }
      length = std::min(length, static_cast<size_t>(left));
    }
    std::vector<iovec> cut;
    for (int i = 0; i < count && length != 0; i++) {
      cut.push_back({pieces[i].iov_base, std::min(pieces[i].iov_len, length)});
      length -= cut.back().iov_len;
    }
    return ::pwritev(fd, cut.data(), static_cast<int>(cut.size()), offset);
  }
  static int sync(int) { return 0; }
  static int fallocate(int fd, int mode, off_t, off_t length) {
    const std::lock_guard lock(mutex);
    Fault& fault = *byFd.at(fd);
    if (!fault.reserves) return fails(EOPNOTSUPP);
    if ((mode & FALLOC_FL_PUNCH_HOLE) != 0 && fault.room >= 0) fault.room += length;
    return 0;
  }
  static constexpr Disk functions() { return {openat, pwritev, sync, sync, ::ftruncate, fallocate}; }
};

enum Options : uint8_t {
  kStrict = 1,
  kSidecar = 2,
  kLines = 4,
  kNoHeader = 8,
  kFaulty = 16,
  kSidecarFaulty = 32,
  kForGood = 64,
  kClumsy = 128,
};

// A recording beside what should be in it.
class Session {
 public:
  Session(size_t number, Bytes& input) : name(std::to_string(number)) {
    const uint8_t bits = input.next();
    options = {.strict = (bits & kStrict) != 0, .sidecar = (bits & kSidecar) != 0, .lines = (bits & kLines) != 0};
    hasHeader = (bits & kNoHeader) == 0 && !options.lines;
    forGood = (bits & kForGood) != 0;
    Fault fault, sidecarFault;
    if ((bits & kFaulty) != 0) {
      room = input.next() << 8 | input.next();
      reserves = (room & 1) == 0;
      if ((room & 2) == 0) room >>= 6;  // in the first few blocks
      fault = {.room = room, .error = (bits & kStrict) != 0 ? EIO : ENOSPC, .forGood = forGood, .reserves = reserves};
      error = fault.error;
    }
    if ((bits & kSidecarFaulty) != 0) sidecarFault.room = sidecarRoom = input.next() << 1;
    fault.isClumsy = sidecarFault.isClumsy = (bits & kClumsy) != 0;
    fault.random = sidecarFault.random = Random(bits + number);
    const std::lock_guard lock(FuzzDisk::mutex);
    FuzzDisk::byName[name] = fault;
    FuzzDisk::byName[name + ".cpt"] = sidecarFault;
  }

  void open(couplet::Recorder& recorder, const std::string& folder) {
    int failure = 0;
    recording = recorder.open(folder, name, options, failure);
    CHECK(recording != nullptr && failure == 0);
    handle = recording->handle();
    if (hasHeader) worked(recording->writeHeader(kHeader.data(), kHeader.size()));
  }

  // True where all that was recorded so far is to be waited for.
  bool step(couplet::Recorder& recorder, uint8_t code, Bytes& input, size_t number);
  void close(couplet::Recorder& recorder) {
    if (recording != nullptr) recorder.close(recording);
    recording = nullptr;
  }
  void see(const RecorderEvent& event) {
    if (event.kind == RecorderEventKind::opened) opened++;
    if (event.kind == RecorderEventKind::durable) durable++;
    if (event.kind == RecorderEventKind::closed) closed.push_back(event);
    if (event.kind == RecorderEventKind::failed) {
      CHECK_EQ(event.file, event.complete ? name + ".cpt" : name);
      CHECK_EQ(event.error, event.complete ? ENOSPC : error);
      (event.complete ? sidecarFailures : failures)++;
    }
  }
  void check(const std::string& file, const std::string& sidecar) const;

  const std::string name;
  uint32_t handle = 0;
  RecordingOptions options;
  size_t opened = 0, durable = 0, failures = 0, sidecarFailures = 0;
  std::vector<RecorderEvent> closed;

 private:
  static inline const std::string kHeader = "{\"magic\":\"MeshCentralRelaySession\"}";

  std::string message(Bytes& input, size_t number) const;
  void checkBlocks(const std::string& file, const std::string& sidecar) const;
  // What a call says that is right in itself: false only where the disk has ended the recording.
  bool worked(bool result) const {
    if (!result) CHECK(room >= 0);
    return result;
  }

  Recording* recording = nullptr;
  bool hasHeader = false, forGood = false, reserves = true;
  int64_t room = -1, sidecarRoom = -1;
  int error = 0;
  std::vector<std::pair<uint16_t, std::string>> messages;
  struct Part {
    bool active = false;
    uint16_t flags = 0;
    std::string data;
  } parts[2];
};

// One that differs from its neighbours, of a length that the fuzzer has a say in.
inline std::string Session::message(Bytes& input, size_t number) const {
  const uint8_t form = input.next();
  size_t length = form & 0x3f;
  if ((form & 0xc0) == 0x40) length = length << 8 | input.next();
  if ((form & 0xc0) == 0x80) length += ChunkPool::kSmallBytes - 48;
  if ((form & 0xc0) == 0xc0) length += ChunkPool::kLargeBytes - 48;
  static const std::string text = Random(1).bytes(1 << 15);
  std::string data = text.substr(number * 11, length);
  if (options.lines) std::replace(data.begin(), data.end(), '\n', ' ');
  if (options.lines && length != 0) data.back() = '\n';
  return data;
}

inline bool Session::step(couplet::Recorder& recorder, uint8_t code, Bytes& input, size_t number) {
  if (recording == nullptr) return false;
  const auto flags = static_cast<uint16_t>(code >> 5 & 3);
  Part& part = parts[(flags & kFromUser) != 0];
  switch (code >> 2 & 7) {
    default: {
      const std::string data = message(input, number);
      if (!hasHeader && !options.lines) {
        CHECK(!recording->append(flags, data.data(), data.size()));
      } else if (worked(recording->append(flags, data.data(), data.size())) && !data.empty()) {
        messages.emplace_back(flags, data);
      }
      break;
    }
    case 3: {
      const size_t expected = input.next() * 100u;
      if (!hasHeader) {
        CHECK(!recording->begin(flags, expected));
      } else if (worked(recording->begin(flags, expected))) {
        part = {true, flags, {}};
      }
      break;
    }
    case 4: {
      const std::string data = message(input, number);
      const bool taken = recording->more(flags, data.data(), data.size());
      CHECK(!taken || part.active);
      if (part.active) part.active = worked(taken);
      part.data += data;
      break;
    }
    case 5: {
      const bool taken = recording->end(flags);
      CHECK(!taken || part.active);
      if (part.active && worked(taken) && !part.data.empty()) messages.emplace_back(part.flags, part.data);
      part.active = false;
      break;
    }
    case 6:
      recorder.sync(recording);
      return true;
    case 7:
      close(recorder);
  }
  return false;
}

inline void Session::check(const std::string& file, const std::string& sidecar) const {
  CHECK_EQ(opened, 1u);
  CHECK_EQ(closed.size(), 1u);
  CHECK_EQ(closed[0].file, name);
  CHECK_EQ(closed[0].bytes, file.size());
  // What should be in it, where its parts end, and how many of these there is room for.
  std::string whole;
  std::vector<size_t> ends = {0};
  const auto add = [&](uint16_t type, uint16_t flags, const std::string& data) {
    if (!options.lines) {
      char header[8];
      storeBig<uint16_t>(header, type);
      storeBig<uint16_t>(header + 2, flags);
      storeBig<uint32_t>(header + 4, static_cast<uint32_t>(data.size()));
      whole.append(header, sizeof header).append(8, '\0');  // without its time
    }
    whole += data;
    ends.push_back(whole.size());
  };
  if (hasHeader) add(1, 0, kHeader);
  for (const auto& [flags, data] : messages) add(2, flags, data);
  const size_t left = whole.size() + (hasHeader ? kEndBlockBytes : 0);
  const bool isFull = room >= 0 && left > static_cast<size_t>(room);
  size_t fitting = ends.size() - 1;
  while (isFull && ends[fitting] > static_cast<size_t>(room)) fitting--;
  CHECK_EQ(failures, isFull ? 1u : 0u);
  bool complete = options.lines || (hasHeader && fitting != 0);
  if (isFull && hasHeader) {
    const bool endFits = !forGood && (reserves || ends[fitting] + kEndBlockBytes <= static_cast<size_t>(room));
    complete = complete && endFits;
  }
  CHECK_EQ(closed[0].complete, complete);
  // Byte for byte, but for the times; these only go on.
  std::vector<Block> blocks;
  std::string content = file;
  if (!options.lines) {
    blocks = readBlocks(file);
    for (const Block& block : blocks) content.replace(block.offset + 8, 8, 8, '\0');
  }
  whole.resize(ends[fitting]);
  CHECK_EQ(hasEnd(file), complete && !options.lines);
  if (hasEnd(file)) content.resize(content.size() - kEndBlockBytes);
  CHECK(content == whole);
  if (!options.sidecar || options.lines) {
    CHECK(sidecar.empty());
    return;
  }
  const size_t records = hasHeader ? (fitting + 1) * kSidecarRecordBytes : 0;
  const bool isSidecarFull = sidecarRoom >= 0 && records > static_cast<size_t>(sidecarRoom);
  CHECK_EQ(sidecarFailures, isSidecarFull ? 1u : 0u);
  if (file.empty()) return;  // no recording, and nothing of it stays
  CHECK_EQ(sidecar.size(), isSidecarFull ? sidecarRoom / kSidecarRecordBytes * kSidecarRecordBytes : records);
  checkSidecar(sidecar, blocks, isSidecarFull || fitting == 0);
}

class Script {
 public:
  explicit Script(Bytes& input) : input_(input) {}

  // Runs it, checks what came of it and returns the recordings' files.
  std::vector<std::string> run() {
    static TemporaryFolder folder;
    static Recorded recorded(systemClock, FuzzDisk::functions());
    couplet::Recorder& recorder = recorded.recorder;
    constexpr uint64_t flushBytes[] = {1, 200, 5000, 1 << 18};
    const uint8_t head = input_.next();
    // Looked at soon, as what has been recorded is kept until then.
    recorder.configure({.flushBytes = flushBytes[head >> 2 & 3], .flushMs = 4, .fsyncMs = 4});
    const size_t count = 1 + head % kMostSessions;
    for (size_t i = 0; i < count; i++) sessions_.push_back(std::make_unique<Session>(i, input_));
    for (const auto& session : sessions_) session->open(recorder, folder.path());
    for (size_t number = 0; number < kMostSteps && !input_.empty(); number++) {
      const uint8_t code = input_.next();
      Session& session = *sessions_[(code & 3) % count];
      const size_t durable = session.durable;
      if (!session.step(recorder, code, input_, number)) continue;
      wait(recorded, [&] { return session.durable != durable || !session.closed.empty(); });
    }
    for (const auto& session : sessions_) session->close(recorder);
    std::vector<std::string> files;
    for (const auto& session : sessions_) {
      wait(recorded, [&] { return !session->closed.empty(); });
      // What has not even a header is no recording and leaves no file.
      const bool stays = session->options.lines || session->closed.front().bytes != 0;
      const bool hasSidecar = session->options.sidecar && !session->options.lines;
      const std::string sidecar = session->name + ".cpt";
      CHECK_EQ(folder.names().contains(session->name), stays);
      files.push_back(stays ? folder.read(session->name) : "");
      session->check(files.back(), hasSidecar && stays ? folder.read(sidecar) : "");
      if (stays) CHECK(::unlink(folder.at(session->name).c_str()) == 0);
      if (hasSidecar && stays) CHECK(::unlink(folder.at(sidecar).c_str()) == 0);
      if (hasSidecar && !stays) ::unlink(folder.at(sidecar).c_str());  // one that was lost before
    }
    recorded.waitUntilEmpty();
    const couplet::Recorder::Statistics figures = recorder.statistics();
    CHECK(figures.assemblyBytes == 0 && figures.openFiles == 0);
    return files;
  }

 private:
  static constexpr size_t kMostSessions = 3;
  static constexpr size_t kMostSteps = 100;

  template <class Done>
  void wait(Recorded& recorded, Done done) {
    recorded.waitUntil([&] {
      recorded.recorder.dispatch([this](const RecorderEvent& event) {
        for (const auto& session : sessions_) {
          if (session->handle == event.handle) session->see(event);
        }
      });
      return done();
    });
  }

  Bytes& input_;
  std::vector<std::unique_ptr<Session>> sessions_;
};

}  // namespace couplet::fuzz
