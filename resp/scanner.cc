#include "resp/scanner.h"
