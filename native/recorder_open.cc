#include "recorder_open.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "file_lock.h"
#include "recorder_lane.h"

namespace couplet {

namespace {

bool isSameFile(const struct stat& one, const struct stat& other) {
  return one.st_dev == other.st_dev && one.st_ino == other.st_ino;
}

}  // namespace

Folder::~Folder() { ::close(fd); }

Opener::Opener(Recorder& recorder)
    : recorder_(recorder), disk_(recorder.disk_), thread_(startThread("rec-open", [this] { run(); })) {}

Opener::~Opener() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wakeUp_.notify_one();
  thread_.join();
}

void Opener::order(Recording& recording, std::string folder) {
  recording.retain();
  {
    const std::lock_guard lock(mutex_);
    orders_.push_back({&recording, std::move(folder)});
  }
  wakeUp_.notify_one();
}

void Opener::run() {
  std::unique_lock lock(mutex_);
  for (;;) {
    wakeUp_.wait(lock, [this] { return stop_ || !orders_.empty(); });
    if (orders_.empty()) return;
    const Order order = std::move(orders_.front());
    orders_.pop_front();
    lock.unlock();
    Recording& recording = *order.recording;
    recording.openError_ = openFiles(recording, order.folder);
    if (recording.openError_ == 0) {
      recorder_.tell({.kind = RecorderEventKind::opened, .handle = recording.handle_, .file = recording.name_});
    }
    recording.lane_.pushOpened(recording);  // the order's reference goes with it
    lock.lock();
  }
}

// An errno where the recording has no files then, and none were left.
int Opener::openFiles(Recording& recording, const std::string& path) {
  int error = 0;
  const std::shared_ptr<Folder> folder = openFolder(path, error);
  if (folder == nullptr) return error;
  const int fd = makeFile(*folder, recording.name_, error);
  if (fd < 0) return error;
  // In the moment before this lock a file looks like one that nobody records into, but it is empty then: there is
  // nothing in it that salvage or an index could want, and a lock that another has taken by now is an error here.
  error = lockFile(fd, true);
  if (isLockUnsupported(error)) error = 0;
  int sidecarFd = -1;
  if (error == 0 && recording.options_.sidecar) sidecarFd = makeFile(*folder, recording.name_ + ".cpt", error);
  if (error != 0) {
    removeOurs(*folder, recording.name_, fd);
    ::close(fd);
    return error;
  }
  recording.fd_ = fd;
  recording.sidecarFd_ = sidecarFd;
  recording.folder_ = folder;
  recording.folderCount_ = folder->made.fetch_add(1) + 1;
  return 0;
}

// The folder that the path leads to now: the one that is open already, unless another has taken its place. As an open
// folder keeps its inode number from being given to another, the comparison is exact.
std::shared_ptr<Folder> Opener::openFolder(const std::string& path, int& error) {
  const int fd = openAt(AT_FDCWD, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC, error);
  if (fd < 0) return nullptr;
  auto fresh = std::make_shared<Folder>(fd);
  std::shared_ptr<Folder>& known = folders_[path];
  struct stat now, before;
  if (known == nullptr || ::fstat(fd, &now) != 0 || ::fstat(known->fd, &before) != 0 || !isSameFile(now, before)) {
    known = std::move(fresh);
  }
  return known;
}

int Opener::openAt(int folder, const std::string& name, int flags, int& error) const {
  int fd;
  do {
    fd = disk_.openat(folder, name.c_str(), flags, 0600);
  } while (fd < 0 && errno == EINTR);
  if (fd < 0) error = errno;
  return fd;
}

int Opener::makeFile(const Folder& folder, const std::string& name, int& error) const {
  return openAt(folder.fd, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, error);
}

void removeOurs(const Folder& folder, const std::string& name, int fd) {
  struct stat ours, named;
  if (::fstat(fd, &ours) != 0 || ::fstatat(folder.fd, name.c_str(), &named, AT_SYMLINK_NOFOLLOW) != 0) return;
  if (isSameFile(ours, named)) ::unlinkat(folder.fd, name.c_str(), 0);
}

}  // namespace couplet
