#include "proxy/worker.h"
