// The recorder's part of the addon's exports, and the process's one recorder for the native forwarder.
#pragma once

#include <napi.h>

#include "recorder.h"

namespace couplet {

// Made at the first use and never destroyed: its threads may outlive everything else at the process's end.
Recorder& processRecorder();

// What native code wants to know of recordings; called on the event loop's thread before JavaScript's listener.
extern std::function<void(const RecorderEvent&)> onRecorderEvent;

void exportRecorder(Napi::Env env, Napi::Object exports);

}  // namespace couplet
