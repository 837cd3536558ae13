#!/usr/bin/env python3
print("tidy: no rules yet")
