#include "cluster/slot.h"
