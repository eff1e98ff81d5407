#include "usockets.h"

#include <dlfcn.h>
#include <link.h>
#include <malloc.h>

#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

namespace couplet {

USockets us;

namespace {

// A context can be freed and its address used again by another one (an App that is closed, as the self-test's is).
// Its hooks then no longer stand in its handlers; hookContext() finds that out and hooks anew.
std::vector<std::unique_ptr<ContextHooks>> hooked;

int findLibrary(dl_phdr_info* info, size_t, void* result) {
  const char* name = info->dlpi_name;
  if (name == nullptr || *name == 0) return 0;
  const char* base = strrchr(name, '/');
  base = base == nullptr ? name : base + 1;
  const size_t length = strlen(base);
  if (strncmp(base, "uws_", 4) != 0 || length < 5 || strcmp(base + length - 5, ".node") != 0) return 0;
  *static_cast<std::string*>(result) = name;
  return 1;
}

template <class F>
bool resolve(void* library, const char* name, F& function, std::string& missing) {
  function = reinterpret_cast<F>(dlsym(library, name));
  if (function == nullptr) missing = name;
  return function != nullptr;
}

template <class F>
void resolveOptional(void* library, const char* name, F& function) {
  function = reinterpret_cast<F>(dlsym(library, name));
}

// Runs a handler setter and returns the word of the context that it replaced by `handler`; nullptr if none did.
// `unchanged` tells that the handler stood there already.
template <class Setter, class H>
H replaceHandler(Setter setter, int ssl, us_socket_context_t* context, H handler) {
  constexpr size_t kMaxWords = 64;
  uintptr_t before[kMaxWords];
  size_t words = malloc_usable_size(context) / sizeof(uintptr_t);
  if (words > kMaxWords) words = kMaxWords;
  memcpy(before, context, words * sizeof(uintptr_t));
  setter(ssl, context, handler);
  const uintptr_t* after = reinterpret_cast<const uintptr_t*>(context);
  const uintptr_t ours = reinterpret_cast<uintptr_t>(handler);
  H old = nullptr;
  size_t changed = 0;
  for (size_t i = 0; i < words; i++) {
    if (after[i] == before[i]) continue;
    changed++;
    if (after[i] == ours) old = reinterpret_cast<H>(before[i]);
  }
  if (changed == 1 && old != nullptr) return old;
  if (old != nullptr) setter(ssl, context, old);
  return nullptr;
}

}  // namespace

std::string loadUSockets() {
  std::string path;
  dl_iterate_phdr(findLibrary, &path);
  if (path.empty()) return "no uWebSockets.js library is loaded";
  void* library = dlopen(path.c_str(), RTLD_LAZY | RTLD_NOLOAD);
  if (library == nullptr) return "the uWebSockets.js library cannot be opened";
  std::string missing;
  const bool found = resolve(library, "us_socket_context", us.context, missing) &&
                     resolve(library, "us_socket_context_loop", us.contextLoop, missing) &&
                     resolve(library, "us_poll_events", us.pollEvents, missing) &&
                     resolve(library, "us_poll_change", us.pollChange, missing) &&
                     resolve(library, "us_poll_fd", us.pollFd, missing) &&
                     resolve(library, "us_socket_write", us.write, missing) &&
                     resolve(library, "us_socket_is_closed", us.isClosed, missing) &&
                     resolve(library, "us_socket_shutdown", us.shutdown, missing) &&
                     resolve(library, "us_socket_close", us.close, missing) &&
                     resolve(library, "us_socket_context_on_data", us.onData, missing) &&
                     resolve(library, "us_socket_context_on_writable", us.onWritable, missing) &&
                     resolve(library, "us_socket_context_on_end", us.onEnd, missing) &&
                     resolve(library, "us_socket_context_on_close", us.onClose, missing);
  resolveOptional(library, "us_create_socket_context", us.createContext);
  resolveOptional(library, "us_adopt_accepted_socket", us.adoptAccepted);
  resolveOptional(library, "us_socket_context_on_open", us.onOpen);
  resolveOptional(library, "us_socket_context_on_timeout", us.onTimeout);
  resolveOptional(library, "us_socket_context_on_long_timeout", us.onLongTimeout);
  resolveOptional(library, "us_socket_context_on_connect_error", us.onConnectError);
  return found ? std::string() : "the uWebSockets.js library does not export " + missing;
}

ContextHooks* hooksOf(us_socket_context_t* context) {
  for (const auto& hooks : hooked) {
    if (hooks->context == context) return hooks.get();
  }
  return nullptr;
}

ContextHooks* hookContext(us_socket_t* socket, bool ssl, const Handlers& handlers) {
  us_socket_context_t* context = us.context(ssl, socket);
  ContextHooks* known = hooksOf(context);
  const DataHandler outer = ssl ? handlers.baseData : handlers.data;
  // A no-op setter call tells whether our handler still stands: replaceHandler sees no change then.
  DataHandler oldOuter = replaceHandler(us.onData, 0, context, outer);
  if (known != nullptr && oldOuter == nullptr) return known;
  if (oldOuter == nullptr) return nullptr;

  auto hooks = std::make_unique<ContextHooks>();
  hooks->context = context;
  hooks->loop = us.contextLoop(ssl, context);
  hooks->ssl = ssl;
  hooks->baseData = oldOuter;
  hooks->data = oldOuter;
  if (ssl) {
    // The inner setter puts the TLS layer's own handler back underneath: set ours on top of it again.
    us.onData(0, context, oldOuter);
    hooks->data = replaceHandler(us.onData, 1, context, handlers.data);
    us.onData(0, context, outer);
  }
  hooks->writable = replaceHandler(us.onWritable, ssl, context, handlers.writable);
  hooks->close = replaceHandler(us.onClose, ssl, context, handlers.close);
  hooks->baseEnd = replaceHandler(us.onEnd, 0, context, handlers.baseEnd);
  if (hooks->data && hooks->writable && hooks->close && hooks->baseEnd) {
    if (known != nullptr) {
      *known = *hooks;
      return known;
    }
    hooked.push_back(std::move(hooks));
    return hooked.back().get();
  }
  if (hooks->data && ssl) us.onData(1, context, hooks->data);
  us.onData(0, context, hooks->baseData);
  if (hooks->writable) us.onWritable(ssl, context, hooks->writable);
  if (hooks->close) us.onClose(ssl, context, hooks->close);
  if (hooks->baseEnd) us.onEnd(0, context, hooks->baseEnd);
  return nullptr;
}

ContextHooks* makeContext(const Handlers& handlers) {
  if (hooked.empty() || us.createContext == nullptr || us.adoptAccepted == nullptr || us.onOpen == nullptr ||
      us.onTimeout == nullptr || us.onLongTimeout == nullptr || us.onConnectError == nullptr) {
    return nullptr;
  }
  us_loop_t* const loop = hooked.front()->loop;
  us_socket_context_t* const context = us.createContext(0, loop, 0, ContextOptions());
  if (context == nullptr) return nullptr;
  const SocketHandler nothing = [](us_socket_t* socket) { return socket; };
  us.onOpen(0, context, [](us_socket_t* socket, int, char*, int) { return socket; });
  us.onTimeout(0, context, nothing);
  us.onLongTimeout(0, context, nothing);
  us.onConnectError(0, context, [](us_socket_t* socket, int) { return socket; });
  us.onData(0, context, handlers.data);
  us.onWritable(0, context, handlers.writable);
  us.onEnd(0, context, handlers.baseEnd);
  us.onClose(0, context, handlers.close);

  auto hooks = std::make_unique<ContextHooks>();
  hooks->context = context;
  hooks->loop = loop;
  hooks->data = hooks->baseData = [](us_socket_t* socket, char*, int) { return socket; };
  hooks->writable = hooks->baseEnd = nothing;
  hooks->close = [](us_socket_t* socket, int, void*) { return socket; };
  hooked.push_back(std::move(hooks));
  return hooked.back().get();
}

}  // namespace couplet
