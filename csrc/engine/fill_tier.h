// Brings every expert, in one precision, to a device that has a slot for each, through the loader's memory, however
// small that is.
#pragma once

#include "base/status.h"
#include "loader/loader.h"
#include "tier/device_tier.h"

namespace hobbit {

// Ends early, without an error, where the loader has no slot at all: an expert then comes when it is wanted. An error
// for a failed read.
Status fill_tier(Loader & loader, DeviceTier & tier, Precision precision);

} // namespace hobbit
