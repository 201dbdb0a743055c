#include "proxy/control.h"
