from urllib.request import ProxyHandler, build_opener

urlopen_here = build_opener(ProxyHandler({})).open
"""Opens an address of this machine, whatever proxy stands between it and the network."""
