#include "proxy/resolver.h"
