"""The generated benchmark: small cities drawn from a seed, photographed by a drone and by a satellite.

From a seed to files, nothing turns back:
`layout` (districts, streets, ground) and `buildings`/`blocks` make a `city`; `acquisition` adds sun, season, haze and
cars; `raycast` and `shading` turn it into radiance; `sensor` into pictures; `university`, `sues` and `flight` into
folders. Local coordinates everywhere: x metres east and y metres south of the city's north-west corner, z metres up.
"""
