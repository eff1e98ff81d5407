// How recordings' files come to be: made anew, locked, and waited for by nobody.
#include "../file_lock.h"
#include "../recorder.h"

#include "recording_files.h"

using namespace couplet;
using namespace couplet::test;
using std::string;
using Kind = RecorderEventKind;

namespace {

// Opens what cannot be opened, closes it, and returns why not.
int failureOf(Recorded& recorded, const string& folder, const string& name, const RecordingOptions& options = {}) {
  int error = 0;
  Recording* recording = recorded.recorder.open(folder, name, options, error);
  if (recording == nullptr) return error;
  const RecorderEvent failed = recorded.wait(Kind::failed, recording->handle());
  const RecorderEvent closed = recorded.wait(Kind::closed, recording->handle());
  CHECK_EQ(failed.file, name);
  CHECK(!failed.complete && !closed.complete && closed.bytes == 0);
  CHECK(!recording->writeHeader("{}", 2));
  recorded.recorder.close(recording);
  CHECK(recorded.take(Kind::opened, failed.handle) == nullptr);
  CHECK(recorded.take(Kind::failed, failed.handle) == nullptr);
  CHECK(recorded.take(Kind::closed, failed.handle) == nullptr);
  CHECK_EQ(recorded.recorder.statistics().queueBytes, 0u);
  return failed.error;
}

// What another one who wants the file meets: 0 or an errno.
int lockOf(const TemporaryFolder& folder, const string& name, bool exclusive) {
  const int fd = ::open(folder.at(name).c_str(), O_RDWR | O_CLOEXEC);
  CHECK(fd >= 0);
  const int error = lockFile(fd, exclusive);
  ::close(fd);
  return error;
}

size_t descriptorsOf(const string& path) {
  size_t count = 0;
  DIR* all = opendir("/proc/self/fd");
  CHECK(all != nullptr);
  while (const dirent* entry = readdir(all)) {
    char target[PATH_MAX];
    const ssize_t length = readlinkat(dirfd(all), entry->d_name, target, sizeof target);
    if (length > 0 && std::string_view(target, static_cast<size_t>(length)) == path) count++;
  }
  closedir(all);
  return count;
}

}  // namespace

TEST("[R34] fault 35: files are made anew: no link is followed, no file taken over, no path walked") {
  FaultyDisk::reset();
  TemporaryFolder folder;
  Recorded recorded;
  CHECK(symlink("/tmp/nowhere", folder.at("link").c_str()) == 0);
  CHECK_EQ(failureOf(recorded, folder.path(), "link"), EEXIST);
  CHECK(symlink("/tmp/nowhere", folder.at("b.cpt").c_str()) == 0);
  CHECK_EQ(failureOf(recorded, folder.path(), "b"), EEXIST);
  CHECK(!folder.names().contains("b"));  // the recording alone is not left behind
  Recording* recording = recorded.open(folder, "a");
  CHECK_EQ(recorded.wait(Kind::opened).file, string("a"));
  CHECK_EQ(failureOf(recorded, folder.path(), "a"), EEXIST);
  struct stat status;
  CHECK(::stat(folder.at("a").c_str(), &status) == 0);
  CHECK_EQ(status.st_mode & 0777, 0600u);
  CHECK(recorded.recorder.statistics().failures.empty());  // a name that is taken says nothing of the disk
  for (const string& name : {string(), string("."), string(".."), string("a/b"), string("../a"), string("a\0b", 3),
                             string(252, 'n')}) {
    int error = 0;
    CHECK(recorded.recorder.open(folder.path(), name, {}, error) == nullptr);
    CHECK_EQ(error, EINVAL);
  }
  CHECK_EQ(failureOf(recorded, "", "a"), EINVAL);
  CHECK_EQ(failureOf(recorded, folder.at("no folder"), "a"), ENOENT);
  CHECK_EQ(failureOf(recorded, folder.at("a"), "a"), ENOTDIR);
  CHECK(recorded.recorder.statistics().failures.at(ENOENT) == 1);
  recorded.recorder.close(recording);
  CHECK(!recorded.wait(Kind::closed).complete);  // nothing was recorded, not even a header
  CHECK(folder.names() == std::set<string>({"b.cpt", "link"}));  // ... and so nothing of it stays
}

TEST("[R34] a recording that cannot be made takes with it what it made, and nothing that is somebody else's") {
  for (const bool replaced : {false, true}) {
    FaultyDisk::reset();
    TemporaryFolder folder;
    Recorded recorded;
    FaultyDisk::beforeOpen = [&](const string& name) {
      if (name != "a.cpt") return 0;
      if (replaced) {
        CHECK(::unlink(folder.at("a").c_str()) == 0);
        ::close(::open(folder.at("a").c_str(), O_WRONLY | O_CREAT | O_EXCL, 0600));
      }
      return EMFILE;
    };
    CHECK_EQ(failureOf(recorded, folder.path(), "a"), EMFILE);
    CHECK_EQ(folder.names().contains("a"), replaced);
    CHECK(recorded.recorder.statistics().failures.at(EMFILE) == 1);
    FaultyDisk::beforeOpen = {};
    recorded.recorder.close(recorded.open(folder, "c"));
    CHECK_EQ(recorded.wait(Kind::opened).file, string("c"));
  }
}

TEST("[R37] [R38] a recording is locked from its making to its end") {
  FaultyDisk::reset();
  FaultyDisk::clumsiness = 3;
  TemporaryFolder folder;
  Recorded recorded;
  for (const bool lines : {false, true}) {
    const string name = lines ? "a.jsonl" : "a.mcrec";
    Recording* recording = recorded.open(folder, name, {.lines = lines});
    recorded.wait(Kind::opened);
    for (const bool exclusive : {false, true}) CHECK_EQ(lockOf(folder, name, exclusive), EAGAIN);
    if (!lines) recording->writeHeader("{}", 2);
    recording->append(0, "x\n", 2);
    recorded.recorder.sync(recording);
    recorded.wait(Kind::durable);
    CHECK_EQ(lockOf(folder, name, false), EAGAIN);
    recorded.recorder.close(recording);
    recorded.wait(Kind::closed);
    CHECK_EQ(lockOf(folder, name, true), 0);
  }
}

TEST("locks: shared ones go together, exclusive ones with none, and what cannot be locked says so") {
  TemporaryFolder folder;
  const int one = ::open(folder.at("a").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  const int two = ::open(folder.at("a").c_str(), O_RDONLY | O_CLOEXEC);
  CHECK_EQ(lockFile(one, false), 0);
  CHECK_EQ(lockFile(two, false), 0);
  CHECK_EQ(lockFile(one, true), EAGAIN);
  ::close(two);
  CHECK_EQ(lockFile(one, true), 0);
  const int three = ::open(folder.at("a").c_str(), O_RDONLY | O_CLOEXEC);
  CHECK_EQ(lockFile(three, false), EAGAIN);
  CHECK_EQ(lockFile(three, true), EBADF);
  CHECK_EQ(lockFile(-1, true), EBADF);
  ::close(three);
  ::close(one);
}

TEST("[R38] a file that another has locked in the moment it was made is no recording") {
  FaultyDisk::reset();
  TemporaryFolder folder;
  static int (*const makeAndLock)(int, const char*, int, mode_t) = [](int at, const char* name, int flags, mode_t mode) {
    const int made = ::openat(at, name, flags, mode);
    if ((flags & O_CREAT) != 0) {
      const int other = ::openat(at, name, O_RDONLY | O_CLOEXEC);
      CHECK_EQ(lockFile(other, false), 0);  // and is left open
    }
    return made;
  };
  Disk disk = faultyDisk;
  disk.openat = makeAndLock;
  Recorded locked(systemClock, disk);
  CHECK_EQ(failureOf(locked, folder.path(), "a"), EAGAIN);
  CHECK(folder.names().empty());
}

TEST("the folder is the one its path leads to now, and open once however many recordings are in it") {
  FaultyDisk::reset();
  TemporaryFolder folder;
  Recorded recorded;
  recorded.recorder.configure({.threads = 2});
  const string path = folder.at("in"), moved = folder.at("moved");
  CHECK(::mkdir(path.c_str(), 0700) == 0);
  std::vector<Recording*> all;
  const auto openIn = [&](const string& name) {
    int error = 0;
    all.push_back(recorded.recorder.open(path, name, {.sidecar = false}, error));
    CHECK(all.back() != nullptr);
  };
  for (int i = 0; i < 20; i++) openIn(std::to_string(i));
  for (int i = 0; i < 20; i++) recorded.wait(Kind::opened);
  CHECK_EQ(descriptorsOf(path), 1u);
  // Another folder in its place: what is open stays where it is, what is new is in the new one.
  CHECK(::rename(path.c_str(), moved.c_str()) == 0);
  CHECK_EQ(failureOf(recorded, path, "b"), ENOENT);
  CHECK(::mkdir(path.c_str(), 0700) == 0);
  openIn("b");
  recorded.wait(Kind::opened);
  CHECK(::access((path + "/b").c_str(), F_OK) == 0);
  CHECK_EQ(descriptorsOf(moved), 1u);
  for (Recording* recording : all) recorded.recorder.close(recording);
  for (size_t i = 0; i < all.size(); i++) recorded.wait(Kind::closed);
  // Closed with its last recording, once that is let go of.
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  while (descriptorsOf(moved) != 0) CHECK(std::chrono::steady_clock::now() < deadline);
  CHECK_EQ(descriptorsOf(path), 1u);
  // Removed and made again, as an inode number may be used again.
  CHECK(::rmdir(path.c_str()) == 0 && ::mkdir(path.c_str(), 0700) == 0);
  openIn("c");
  recorded.wait(Kind::opened);
  CHECK(::unlink((path + "/c").c_str()) == 0);
  recorded.recorder.close(all.back());
  CHECK(::rmdir(moved.c_str()) == 0 && ::rmdir(path.c_str()) == 0);
}

TEST("[R36] an open that hangs keeps nobody waiting, and loses nothing of what came meanwhile") {
  FaultyDisk::reset();
  TemporaryFolder folder;
  Recorded recorded;
  recorded.recorder.configure({.flushBytes = 1000, .flushMs = 3600000, .fsyncMs = 3600000});
  Recording* other = recorded.open(folder, "other");
  recorded.wait(Kind::opened);
  FaultyDisk::openGate(true);
  Recording* recording = recorded.open(folder, "a");
  const uint32_t handle = recording->handle();
  CHECK(recording->writeHeader("{}", 2));
  for (int i = 0; i < 1000; i++) CHECK(recording->append(0, "some data", 9));
  CHECK(recording->begin(kFromUser, 0) && recording->more(kFromUser, "abc", 3) && recording->end(kFromUser));
  recorded.recorder.sync(recording);
  // A file that is open is written and synced all the same.
  CHECK(other->writeHeader("{}", 2));
  recorded.recorder.sync(other);
  CHECK_EQ(recorded.wait(Kind::durable).handle, other->handle());
  recorded.recorder.close(recording);
  recorded.recorder.close(other);
  CHECK_EQ(recorded.wait(Kind::closed).handle, other->handle());
  CHECK(recorded.recorder.find(handle) == nullptr);
  CHECK(!recorded.recorder.flushAll(false, 20));
  CHECK(!recorded.recorder.flushAll(true, 20));
  CHECK(folder.size("a") == 0 && recorded.take(Kind::opened) == nullptr);
  FaultyDisk::openGate(false);
  CHECK(recorded.recorder.flushAll(true, 60000));
  recorded.wait(Kind::opened, handle);
  CHECK(recorded.wait(Kind::closed, handle).complete);
  const string file = folder.read("a");
  CHECK(hasEnd(file));
  CHECK_EQ(readBlocks(file).size(), 1003u);
  CHECK_EQ(readBlocks(file)[1001].data, string("abc"));
  checkSidecar(folder.read("a.cpt"), readBlocks(file));
}

TEST("[R36] while an open hangs, the queue's limits hold: strict is held back, best effort ends there") {
  FaultyDisk::reset();
  TemporaryFolder folder;
  Recorded recorded;
  recorded.recorder.configure({.flushMs = 5, .maxQueueBytes = 1 << 20, .maxFileQueueBytes = 1 << 16});
  FaultyDisk::openGate(true);
  Recording* strict = recorded.open(folder, "strict", {.strict = true});
  Recording* other = recorded.open(folder, "other");
  strict->writeHeader("{}", 2);
  other->writeHeader("{}", 2);
  const string data(1000, 'x');
  size_t appended[2] = {0, 0};
  while (!strict->holdsBack()) CHECK(strict->append(0, data.data(), data.size()) && ++appended[0] < 1000);
  while (other->append(0, data.data(), data.size())) CHECK(++appended[1] < 1000);
  CHECK_EQ(recorded.wait(Kind::holdBack).handle, strict->handle());
  const RecorderEvent failed = recorded.wait(Kind::failed);
  CHECK(failed.handle == other->handle() && failed.error == ENOBUFS);
  FaultyDisk::openGate(false);
  CHECK_EQ(recorded.wait(Kind::goOn).handle, strict->handle());
  CHECK(recorded.wait(Kind::closed, other->handle()).complete);
  recorded.recorder.close(other);
  recorded.recorder.close(strict);
  CHECK(recorded.wait(Kind::closed, strict->handle()).complete);
  CHECK_EQ(readBlocks(folder.read("strict")).size(), appended[0] + 2);
  CHECK_EQ(readBlocks(folder.read("other")).size(), appended[1] + 2);
}

TEST("what was appended to a recording that cannot be made leaves the queue, and its session goes on") {
  FaultyDisk::reset();
  TemporaryFolder folder;
  Recorded recorded;
  recorded.recorder.configure({.maxFileQueueBytes = 2000});
  FaultyDisk::openGate(true);
  int error = 0;
  Recording* recording = recorded.recorder.open(folder.at("none"), "a", {.strict = true}, error);
  recording->writeHeader("{}", 2);
  while (!recording->holdsBack()) CHECK(recording->append(0, "some data", 9));
  FaultyDisk::openGate(false);
  CHECK_EQ(recorded.wait(Kind::failed).error, ENOENT);
  recorded.wait(Kind::goOn, recording->handle());
  CHECK(!recorded.wait(Kind::closed).complete);
  CHECK(!recording->append(0, "x", 1));
  CHECK_EQ(recorded.recorder.statistics().queueBytes, 0u);
  recorded.recorder.close(recording);
  CHECK_EQ(recorded.recorder.statistics().openFiles, 0u);
}
