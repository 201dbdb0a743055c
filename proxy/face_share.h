#pragma once

// File: proxy/face_share.h
//
// KEYS and DBSIZE at one of several proxies that look like a cluster: see FaceShare.

#include <memory>

#include "proxy/cluster_face.h"
#include "proxy/procedure.h"

namespace proxy {

// Null: the command is none of these.
std::unique_ptr<Procedure> MakeFaceShare(const cluster::CommandSpec& command,
                                         const FaceShare& share, const io::Rope& frame);

}  // namespace proxy
