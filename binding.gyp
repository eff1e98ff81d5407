{
  "targets": [
    {
      "target_name": "couplet",
      "sources": ["native/addon.cc", "native/usockets.cc", "native/out_queue.cc", "native/hold.cc", "native/link.cc", "native/flow.cc", "native/half.cc", "native/sweep.cc", "native/clock.cc", "native/recording.cc", "native/recorder.cc", "native/recorder_lane.cc", "native/recorder_write.cc", "native/recorder_sync.cc", "native/recorder_open.cc", "native/file_lock.cc", "native/recorder_addon.cc", "native/pair_recording.cc"],
      "include_dirs": ["<!@(node -p \"require('node-addon-api').include\")"],
      "defines": ["NAPI_DISABLE_CPP_EXCEPTIONS", "NAPI_VERSION=8"],
      "cflags_cc": ["-std=c++20", "-O3", "-Wall", "-Wextra", "-Wno-unused-parameter", "-fvisibility=hidden"],
      "cflags!": ["-O2"],
      "cflags_cc!": ["-std=gnu++17", "-std=gnu++20", "-O2"],
      "conditions": [
        ["OS!='linux'", { "sources": ["native/unsupported.cc"], "sources!": ["native/addon.cc", "native/usockets.cc", "native/out_queue.cc", "native/hold.cc", "native/link.cc", "native/flow.cc", "native/half.cc", "native/sweep.cc", "native/clock.cc", "native/recording.cc", "native/recorder.cc", "native/recorder_lane.cc", "native/recorder_write.cc", "native/recorder_sync.cc", "native/recorder_open.cc", "native/file_lock.cc", "native/recorder_addon.cc", "native/pair_recording.cc"] }]
      ]
    }
  ]
}
