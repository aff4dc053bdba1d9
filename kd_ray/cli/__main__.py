"""python -m kd_ray.cli"""

from kd_ray.cli import main

main()
